//! Which device computes, in which precision, and what it says of its memory.

use std::str::FromStr;

use candle_core::{DType, Device};

use super::error::{ColQwenError, Result};
use super::layers::Quantisation;
use crate::Precision;

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
                    return Err(device_error(
                        &name,
                        "this binary is built without CUDA: use the worker's image for GPUs",
                    ));
                }
                Device::new_cuda(number).map_err(|error| device_error(&name, &error.to_string()))
            }
        }
    }
}

/// The precision asked for, else what suits the device. TF32 is switched for the whole process:
/// it has one model.
pub(super) fn precision_on(device: &Device, asked: Option<Precision>) -> Precision {
    let precision = asked.unwrap_or(if device.is_cpu() {
        Precision::F32
    } else {
        Precision::Bf16
    });
    candle_core::cuda::set_gemm_reduced_precision_f32(precision == Precision::Tf32);
    precision
}

/// Type of the activations on `device`.
pub(super) fn activations(precision: Precision, device: &Device) -> DType {
    match precision {
        Precision::F32 | Precision::Tf32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Q8 | Precision::Q4 if device.is_cpu() => DType::F32,
        Precision::Bf16 | Precision::Q8 | Precision::Q4 => DType::BF16,
    }
}

/// How the large matrices are kept.
pub(super) fn quantisation(precision: Precision) -> Quantisation {
    match precision {
        Precision::Q8 => Quantisation::Q8,
        Precision::Q4 => Quantisation::Q4,
        Precision::F32 | Precision::Tf32 | Precision::Bf16 | Precision::F16 => Quantisation::None,
    }
}

/// Bytes in use of a GPU's memory, by whomever; none on a CPU or when the driver does not say.
#[cfg(feature = "cuda")]
pub(super) fn memory_in_use(device: &Device) -> Option<u64> {
    use candle_core::cuda_backend::cudarc::driver::result;
    let Device::Cuda(device) = device else {
        return None;
    };
    // The question is about the context that is current on this thread.
    device.cuda_stream().context().bind_to_thread().ok()?;
    let (free, total) = result::mem_get_info().ok()?;
    u64::try_from(total.saturating_sub(free)).ok()
}

/// Bytes in use of a GPU's memory: this build knows none.
#[cfg(not(feature = "cuda"))]
pub(super) fn memory_in_use(_device: &Device) -> Option<u64> {
    None
}

/// Waits until the device has freed what was dropped. The driver gives memory of its pool back
/// when a stream is synchronised.
pub(super) fn release_memory(device: &Device) {
    if let Err(error) = device.synchronize() {
        tracing::warn!(%error, "the device does not synchronise");
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
    fn devices_are_read_from_text() {
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        assert_eq!(
            "cuda:3".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(3)
        );
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!("gpu".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_named() {
        assert!(matches!(DeviceChoice::Auto.open(), Ok(Device::Cpu)));
        let error = DeviceChoice::Cuda(1).open().unwrap_err();
        assert!(error.to_string().contains("cuda:1"), "{error}");
    }
}
