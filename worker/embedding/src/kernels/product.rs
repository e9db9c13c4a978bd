//! Matrix products of tensors with weights: by the packed kernels if they support the weights, else
//! by the tensor library.

use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp2, Layout, Result, Shape, Tensor};

use super::matrix::PackedMatrix;
use super::path::Path;
use super::{add_bias, values, values_mut};

/// `x W^T + b` with weights `[outputs, inputs]`.
pub(crate) enum Product {
    /// By the packed kernels.
    Packed(PackedProduct),
    /// By the tensor library.
    Plain {
        /// `[outputs, inputs]`
        weight: Tensor,
        /// `[outputs]`
        bias: Option<Tensor>,
    },
}

impl Product {
    /// Packs the weights if the kernels support them.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(match pack(Path::chosen(), &weight, bias.as_ref())? {
            Some(matrix) => Self::Packed(PackedProduct(matrix)),
            None => Self::Plain { weight, bias },
        })
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    pub(crate) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(product) => rows.contiguous()?.apply_op1_no_bwd(product),
            Self::Plain { weight, bias } => {
                let product = rows.matmul(&weight.t()?)?;
                match bias {
                    Some(bias) => add_bias(product, bias),
                    None => Ok(product),
                }
            }
        }
    }

    /// `sums` plus the product. `sums` may be changed in place, so its storage must not be shared.
    pub(crate) fn add_to(&self, sums: Tensor, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(product) if sums.is_contiguous() => {
                sums.inplace_op2(&rows.contiguous()?, product)?;
                Ok(sums)
            }
            _ => sums + self.forward(rows)?,
        }
    }
}

/// Packs a matrix and its bias. `None` if the kernels do not support it: types other than f32,
/// devices other than the CPU, the portable path.
pub(super) fn pack(
    path: Path,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Option<PackedMatrix>> {
    let supported = weight.device().is_cpu() && weight.dtype() == DType::F32;
    if !supported || !path.is_native() {
        return Ok(None);
    }
    let (_, inputs) = weight.dims2()?;
    let weight = weight.flatten_all()?.to_vec1::<f32>()?;
    let bias = bias.map(Tensor::to_vec1::<f32>).transpose()?;
    Ok(PackedMatrix::new(path, &weight, inputs, bias.as_deref()))
}

/// A packed matrix as an operation of the tensor library.
pub(crate) struct PackedProduct(PackedMatrix);

impl PackedProduct {
    /// Number of rows of `layout`, whose width must be the matrix's.
    fn count(&self, layout: &Layout) -> Result<usize> {
        let (count, inputs) = layout.shape().dims2()?;
        if inputs != self.0.inputs() {
            candle_core::bail!("{inputs} columns, expected {}", self.0.inputs());
        }
        Ok(count)
    }
}

impl CustomOp1 for PackedProduct {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = (self.count(layout)?, self.0.outputs());
        let mut sums = vec![0.0; shape.0 * shape.1];
        self.0.multiply(values(rows, layout)?, &mut sums, false);
        Ok((CpuStorage::F32(sums), Shape::from(shape)))
    }
}

impl InplaceOp2 for PackedProduct {
    fn name(&self) -> &'static str {
        "add-product"
    }

    fn cpu_fwd(
        &self,
        sums: &mut CpuStorage,
        sums_layout: &Layout,
        rows: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let shape = (self.count(layout)?, self.0.outputs());
        if sums_layout.shape().dims2()? != shape {
            candle_core::bail!("sums of {sums_layout:?}, expected {shape:?}");
        }
        let (rows, sums) = (values(rows, layout)?, values_mut(sums, sums_layout)?);
        self.0.multiply(rows, sums, true);
        Ok(())
    }
}
