//! Layers of both towers, and how they are read from a checkpoint: linear layers, feed-forward
//! networks, norms.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Tensor};

use super::checkpoint::Checkpoint;
use super::error::Result;
use crate::kernels::{self, Activation, Product};

/// Quantisation of the large matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantisation {
    /// The type of the activations.
    None,
    /// 8 bits for each weight.
    Q8,
    /// 4 bits for each weight.
    Q4,
}

/// Loads weights with a common name prefix to the device.
#[derive(Clone)]
pub(super) struct Loader<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
    pub(super) quantisation: Quantisation,
    pub(super) prefix: String,
}

impl Loader<'_> {
    /// The loader for the prefix extended by `name`.
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

/// Weights and bias of a linear layer, as in the checkpoint.
struct Weights {
    /// `[outputs, inputs]`
    weight: Tensor,
    /// `[outputs]`
    bias: Option<Tensor>,
    /// Quantisation format, if any.
    format: Option<GgmlDType>,
}

impl Weights {
    /// Reads several matrices with the same input as one, whose outputs are concatenated. Each part
    /// is a loader and a number of outputs.
    fn read(parts: &[(Loader, usize)], inputs: usize, bias: bool) -> Result<Self> {
        let loader = &parts[0].0;
        let outputs: usize = parts.iter().map(|(_, output)| output).sum();
        let format = loader.quantisation.format(inputs, outputs);
        let dtype = match format {
            Some(_) => DType::F32,
            None => loader.dtype,
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
        let bias = bias.then(|| read("bias", None, loader.dtype)).transpose()?;
        Ok(Self {
            weight: read("weight", Some(inputs), dtype)?,
            bias,
            format,
        })
    }

    fn on(&self, device: &Device) -> Result<(Tensor, Option<Tensor>)> {
        Ok((self.weight.to_device(device)?, self.bias_on(device)?))
    }

    fn bias_on(&self, device: &Device) -> Result<Option<Tensor>> {
        let bias = self.bias.as_ref().map(|bias| bias.to_device(device));
        Ok(bias.transpose()?)
    }
}

/// `x W^T + b`.
pub(super) enum Linear {
    Plain(Product),
    Quantised {
        weight: QMatMul,
        bias: Option<Tensor>,
    },
}

impl Linear {
    /// Reads `weight [output, input]` and, if the layer has one, `bias [output]`.
    pub(super) fn load(loader: &Loader, input: usize, output: usize, bias: bool) -> Result<Self> {
        Self::load_joined(&[(loader.clone(), output)], input, bias)
    }

    /// Reads several matrices with the same input as one, whose outputs are concatenated.
    pub(super) fn load_joined(parts: &[(Loader, usize)], input: usize, bias: bool) -> Result<Self> {
        Self::new(&Weights::read(parts, input, bias)?, parts[0].0.device)
    }

    fn new(weights: &Weights, device: &Device) -> Result<Self> {
        let Some(format) = weights.format else {
            let (weight, bias) = weights.on(device)?;
            return Self::from_tensors(weight, bias);
        };
        let quantised = QTensor::quantize_onto(&weights.weight, format, device)?;
        Ok(Self::Quantised {
            weight: QMatMul::from_qtensor(quantised)?,
            bias: weights.bias_on(device)?,
        })
    }

    /// Creates a layer from tensors on their device.
    pub(super) fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self::Plain(Product::new(weight, bias)?))
    }

    /// `[rows, input]` to `[rows, output]`.
    pub(super) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(product) => Ok(product.forward(rows)?),
            Self::Quantised { weight, bias } => {
                let product = weight.forward(&rows.to_dtype(DType::F32)?)?;
                let product = product.to_dtype(rows.dtype())?;
                Ok(match bias {
                    Some(bias) => product.broadcast_add(bias)?,
                    None => product,
                })
            }
        }
    }

    /// `sums` plus the layer's result. `sums` may be changed in place, so its storage must not be
    /// shared.
    pub(super) fn add_to(&self, sums: Tensor, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(product) => Ok(product.add_to(sums, rows)?),
            Self::Quantised { .. } => Ok((sums + self.forward(rows)?)?),
        }
    }
}

/// Two linear layers with an activation between them.
pub(super) enum FeedForward {
    Plain(kernels::FeedForward),
    Quantised {
        first: Linear,
        activation: Activation,
        second: Linear,
    },
}

impl FeedForward {
    /// Reads the parts of the first layer, each with a number of outputs that are concatenated, and
    /// the second layer, which has `width` outputs.
    pub(super) fn load(
        first: &[(Loader, usize)],
        activation: Activation,
        second: Loader,
        width: usize,
        bias: bool,
    ) -> Result<Self> {
        let device = first[0].0.device;
        let intermediate = first[0].1;
        let first = Weights::read(first, width, bias)?;
        let second = Weights::read(&[(second, width)], intermediate, bias)?;
        if first.format.is_none() && second.format.is_none() {
            let (first, second) = (first.on(device)?, second.on(device)?);
            let layers = kernels::FeedForward::new(first, activation, second)?;
            return Ok(Self::Plain(layers));
        }
        Ok(Self::Quantised {
            first: Linear::new(&first, device)?,
            activation,
            second: Linear::new(&second, device)?,
        })
    }

    /// `sums`, which may be changed in place, plus the result for `rows`.
    pub(super) fn add_to(&self, sums: Tensor, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(layers) => Ok(layers.add_to(sums, rows)?),
            Self::Quantised {
                first,
                activation,
                second,
            } => second.add_to(sums, &activation.apply(first.forward(rows)?)?),
        }
    }
}

impl Quantisation {
    /// Format of a matrix; `None` if its rows are not a multiple of the block size.
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
    /// RMS norm with `weight [width]`.
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

    /// Layer norm with `weight [width]` and `bias [width]`.
    pub(super) fn load_layer(loader: &Loader, width: usize, epsilon: f32) -> Result<Self> {
        let weight = loader.tensor("weight", &[width])?;
        let bias = Some(loader.tensor("bias", &[width])?);
        Ok(Self {
            weight,
            bias,
            epsilon,
        })
    }

    /// The weights for a CPU kernel.
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

/// Normalises every row to unit length, in f32.
pub(super) fn unit_length(rows: &Tensor) -> Result<Tensor> {
    let rows = rows.to_dtype(DType::F32)?;
    let length = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    Ok(rows.broadcast_div(&length)?)
}
