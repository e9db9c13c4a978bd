//! Which device computes, in which precision: parsed from text once, then trusted.

use std::str::FromStr;

use candle_core::{DType, Device};

use super::error::{ColQwenError, Result};
use super::layers::Quantisation;

/// Where the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

/// How weights are kept and numbers computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: the reference.
    #[default]
    F32,
    /// 16-bit floats with the range of 32 bits; what the models were trained in.
    Bf16,
    /// 16-bit floats.
    F16,
    /// Large matrices in blocks of 8-bit integers, the rest f32 on a CPU and bf16 on a GPU.
    Q8,
    /// Large matrices in blocks of 4-bit integers, the rest as for `Q8`.
    Q4,
}

impl FromStr for DeviceChoice {
    type Err = ColQwenError;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err(device_error(text, "devices are auto, cpu and cuda:N")),
        }
    }
}

impl FromStr for Precision {
    type Err = ColQwenError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            "q4" => Ok(Self::Q4),
            _ => Err(device_error(
                text,
                "precisions are f32, bf16, f16, q8 and q4",
            )),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    pub(super) fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if !candle_core::utils::cuda_is_available() => Ok(Device::Cpu),
            // A machine without a driver is a reason for the CPU, not for an error.
            Self::Auto => Ok(Device::new_cuda(0).unwrap_or(Device::Cpu)),
            Self::Cuda(number) => {
                let name = format!("cuda:{number}");
                if !candle_core::utils::cuda_is_available() {
                    return Err(device_error(&name, "this binary is built without CUDA"));
                }
                Device::new_cuda(number).map_err(|error| device_error(&name, &error.to_string()))
            }
        }
    }
}

impl Precision {
    /// Type of the activations on `device`.
    pub(super) fn dtype(self, device: &Device) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Q8 | Self::Q4 if device.is_cpu() => DType::F32,
            Self::Bf16 | Self::Q8 | Self::Q4 => DType::BF16,
        }
    }

    pub(super) fn quantisation(self) -> Quantisation {
        match self {
            Self::Q8 => Quantisation::Q8,
            Self::Q4 => Quantisation::Q4,
            Self::F32 | Self::Bf16 | Self::F16 => Quantisation::None,
        }
    }
}

fn device_error(name: &str, reason: &str) -> ColQwenError {
    ColQwenError::Device {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_precisions_are_read_from_text() {
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        assert_eq!(
            "cuda:3".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(3)
        );
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!("gpu".parse::<DeviceChoice>().is_err());
        assert_eq!("bf16".parse::<Precision>().unwrap(), Precision::Bf16);
        assert!("int8".parse::<Precision>().is_err());
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_named() {
        assert!(matches!(DeviceChoice::Auto.open(), Ok(Device::Cpu)));
        let error = DeviceChoice::Cuda(1).open().unwrap_err();
        assert!(error.to_string().contains("cuda:1"), "{error}");
    }
}
