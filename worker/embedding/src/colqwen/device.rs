//! Selection of device and precision, and memory use of the device.

use std::str::FromStr;

use candle_core::{DType, Device};

use super::error::{ColQwenError, Result};
use super::layers::Quantisation;
use crate::Precision;

/// Where the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device, or the CPU if there is none.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number.
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
            _ => Err(device_error(text, "expected auto, cpu or cuda:N")),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    pub(super) fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if !candle_core::utils::cuda_is_available() => Ok(Device::Cpu),
            // Without a driver the CPU is used.
            Self::Auto => Ok(Device::new_cuda(0).unwrap_or(Device::Cpu)),
            Self::Cuda(number) => {
                let name = format!("cuda:{number}");
                if !candle_core::utils::cuda_is_available() {
                    return Err(device_error(
                        &name,
                        "this binary was built without CUDA: use the worker's image for GPUs",
                    ));
                }
                Device::new_cuda(number).map_err(|error| device_error(&name, &error.to_string()))
            }
        }
    }
}

/// The requested precision, else the default of the device. TF32 is switched for the whole process,
/// which has one model.
pub(super) fn precision_on(device: &Device, requested: Option<Precision>) -> Precision {
    let precision = requested.unwrap_or(if device.is_cpu() {
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

/// Quantisation of the large matrices.
pub(super) fn quantisation(precision: Precision) -> Quantisation {
    match precision {
        Precision::Q8 => Quantisation::Q8,
        Precision::Q4 => Quantisation::Q4,
        Precision::F32 | Precision::Tf32 | Precision::Bf16 | Precision::F16 => Quantisation::None,
    }
}

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct GpuMemory {
    /// In use, by all processes.
    pub(super) used: u64,
    /// All of it.
    pub(super) total: u64,
}

/// Memory of a GPU; `None` on a CPU or if the driver fails.
#[cfg(feature = "cuda")]
pub(super) fn memory(device: &Device) -> Option<GpuMemory> {
    use candle_core::cuda_backend::cudarc::driver::result;
    let Device::Cuda(device) = device else {
        return None;
    };
    // The driver reports on the context that is current on this thread.
    device.cuda_stream().context().bind_to_thread().ok()?;
    let (free, total) = result::mem_get_info().ok()?;
    Some(GpuMemory {
        used: u64::try_from(total.saturating_sub(free)).ok()?,
        total: u64::try_from(total).ok()?,
    })
}

/// Memory of a GPU: always `None` in a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub(super) fn memory(_device: &Device) -> Option<GpuMemory> {
    None
}

/// Frees the device's cached memory. The driver releases the memory of its pool when a stream is
/// synchronised.
pub(super) fn release_memory(device: &Device) {
    if let Err(error) = device.synchronize() {
        tracing::warn!(%error, "device cannot be synchronised");
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
    fn devices_are_parsed() {
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        assert_eq!(
            "cuda:3".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(3)
        );
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!("gpu".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn an_unusable_gpu_is_named_in_the_error() {
        assert!(matches!(DeviceChoice::Auto.open(), Ok(Device::Cpu)));
        let error = DeviceChoice::Cuda(1).open().unwrap_err();
        assert!(error.to_string().contains("cuda:1"), "{error}");
    }
}
