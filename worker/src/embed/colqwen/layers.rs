//! Building blocks of both towers: matrix products with bias, norms, and how they are read from a
//! checkpoint. No block knows which tower it is in.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Tensor};

use super::checkpoint::Checkpoint;
use super::error::Result;
use crate::embed::kernels;

/// How the large matrices are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantisation {
    /// As the activations.
    None,
    /// 8 bits a weight.
    Q8,
    /// 4 bits a weight.
    Q4,
}

/// Reads weights onto the device, below one prefix of names.
#[derive(Clone)]
pub(super) struct Loader<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
    pub(super) quantisation: Quantisation,
    pub(super) prefix: String,
}

impl Loader<'_> {
    /// The same below `name`.
    pub(super) fn at(&self, name: impl std::fmt::Display) -> Self {
        let prefix = format!("{}{name}.", self.prefix);
        Self {
            prefix,
            ..self.clone()
        }
    }

    /// The tensor `name`, which must have this shape.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        self.checkpoint
            .tensor(&name, shape, self.dtype, self.device)
    }

    fn host_tensor(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        self.checkpoint.tensor(&name, shape, dtype, &Device::Cpu)
    }
}

/// `x W^T + b`.
pub(super) struct Linear {
    weight: Weight,
    /// None where the weight has it in itself.
    bias: Option<Tensor>,
}

enum Weight {
    Plain(Tensor),
    /// With its bias, for the CPU.
    LaidOut(kernels::Matrix),
    Quantised(QMatMul),
}

impl Linear {
    /// Reads `weight [output, input]` and, where there is one, `bias [output]`.
    pub(super) fn load(loader: &Loader, input: usize, output: usize, bias: bool) -> Result<Self> {
        Self::load_joined(&[(loader.clone(), output)], input, bias)
    }

    /// Reads several matrices on one input as one: their results stand side by side.
    pub(super) fn load_joined(parts: &[(Loader, usize)], input: usize, bias: bool) -> Result<Self> {
        let loader = &parts[0].0;
        let outputs: usize = parts.iter().map(|(_, output)| output).sum();
        let format = loader.quantisation.format(input, outputs);
        let dtype = if format.is_some() {
            DType::F32
        } else {
            loader.dtype
        };
        let read = |name: &str, inner: Option<usize>, dtype: DType| -> Result<Tensor> {
            let tensors = parts
                .iter()
                .map(|(part, output)| {
                    let shape: Vec<usize> = [*output].into_iter().chain(inner).collect();
                    part.host_tensor(name, &shape, dtype)
                })
                .collect::<Result<Vec<_>>>()?;
            Ok(match tensors.as_slice() {
                [tensor] => tensor.clone(),
                tensors => Tensor::cat(tensors, 0)?,
            })
        };
        let weight = read("weight", Some(input), dtype)?;
        let bias = bias
            .then(|| {
                Ok::<_, super::error::ColQwenError>(
                    read("bias", None, loader.dtype)?.to_device(loader.device)?,
                )
            })
            .transpose()?;
        let Some(format) = format else {
            return Self::from_tensors(weight.to_device(loader.device)?, bias);
        };
        let quantised = QTensor::quantize_onto(&weight, format, loader.device)?;
        let weight = Weight::Quantised(QMatMul::from_qtensor(quantised)?);
        Ok(Self { weight, bias })
    }

    /// A layer from tensors that are already in place.
    pub(super) fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(match kernels::Matrix::new(&weight, bias.as_ref())? {
            Some(matrix) => Self {
                weight: Weight::LaidOut(matrix),
                bias: None,
            },
            None => Self {
                weight: Weight::Plain(weight),
                bias,
            },
        })
    }

    /// `[rows, input]` to `[rows, output]`.
    pub(super) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let product = match &self.weight {
            Weight::Plain(weight) => rows.matmul(&weight.t()?)?,
            Weight::LaidOut(matrix) => matrix.multiply(rows)?,
            Weight::Quantised(weight) => {
                let product = weight.forward(&rows.to_dtype(DType::F32)?)?;
                product.to_dtype(rows.dtype())?
            }
        };
        Ok(match &self.bias {
            Some(bias) => kernels::add_bias(product, bias)?,
            None => product,
        })
    }
}

impl Linear {
    /// `sums` and, for each row, the layer's result. `sums` may be changed in place: nobody else
    /// may want its values.
    pub(super) fn add_to(&self, sums: Tensor, rows: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::LaidOut(matrix) if sums.is_contiguous() => {
                matrix.add_product(rows, &sums)?;
                Ok(sums)
            }
            _ => Ok((sums + self.forward(rows)?)?),
        }
    }
}

impl Quantisation {
    /// The format of a matrix; none where its rows do not fill whole blocks.
    fn format(self, input: usize, outputs: usize) -> Option<GgmlDType> {
        let format = match self {
            Self::None => return None,
            Self::Q8 => GgmlDType::Q8_0,
            Self::Q4 if input.is_multiple_of(GgmlDType::Q4K.block_size()) => GgmlDType::Q4K,
            Self::Q4 => GgmlDType::Q4_0,
        };
        (outputs > 1 && input.is_multiple_of(format.block_size())).then_some(format)
    }
}

/// A norm over the last dimension.
pub(super) struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    epsilon: f32,
}

impl Norm {
    /// Root mean square: `weight [width]`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the reference's epsilon is an f32"
    )]
    pub(super) fn load_rms(loader: &Loader, width: usize, epsilon: f64) -> Result<Self> {
        let weight = loader.tensor("weight", &[width])?;
        Ok(Self {
            weight,
            bias: None,
            epsilon: epsilon as f32,
        })
    }

    /// Mean and variance: `weight [width]` and `bias [width]`.
    pub(super) fn load_layer(loader: &Loader, width: usize, epsilon: f32) -> Result<Self> {
        let weight = loader.tensor("weight", &[width])?;
        let bias = Some(loader.tensor("bias", &[width])?);
        Ok(Self {
            weight,
            bias,
            epsilon,
        })
    }

    /// Its weights for a kernel on the CPU.
    pub(super) fn to_host(&self) -> Result<kernels::HeadNorm> {
        let weight = self.weight.to_dtype(DType::F32)?.to_vec1()?;
        let epsilon = self.epsilon;
        Ok(kernels::HeadNorm { weight, epsilon })
    }

    /// Normalises every row.
    pub(super) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(match &self.bias {
            None => candle_nn::ops::rms_norm(rows, &self.weight, self.epsilon)?,
            Some(bias) => candle_nn::ops::layer_norm(rows, &self.weight, bias, self.epsilon)?,
        })
    }
}

/// Divides every row by its length, in f32.
pub(super) fn unit_length(rows: &Tensor) -> Result<Tensor> {
    let rows = rows.to_dtype(DType::F32)?;
    let length = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    Ok(rows.broadcast_div(&length)?)
}
