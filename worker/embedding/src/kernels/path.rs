//! Which vector instructions the kernels here use: those of this CPU, or those that
//! `LAYRA_KERNELS` asks for, so that paths can be tested and compared on one machine.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use pulp::Simd;
use pulp::WithSimd;

/// The environment variable that picks a path: `auto` (also when it is not set), `avx512`, `avx2`
/// or `portable`.
const VARIABLE: &str = "LAYRA_KERNELS";

/// A set of vector instructions that this CPU has.
///
/// With `--cfg layra_portable` only the portable path exists, as on every architecture but x86-64.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// AVX-512: 32 registers of 16 values.
    #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
    Avx512(pulp::x86::V4),
    /// AVX2 and FMA: 16 registers of 8 values.
    #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
    Avx2(pulp::x86::V3),
    /// No kernels with packed weights: matrix products and attention are the tensor library's.
    Portable,
}

impl Path {
    /// The path of this process. What [`check`] refuses counts as `auto`.
    pub(crate) fn chosen() -> Self {
        static CHOSEN: OnceLock<Path> = OnceLock::new();
        *CHOSEN.get_or_init(|| asked_for().unwrap_or_else(|_| Self::best()))
    }

    /// All paths that this CPU has, the fastest first.
    pub(crate) fn all() -> Vec<Self> {
        #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
        let native = {
            let avx512 = pulp::x86::V4::try_new().map(Self::Avx512);
            let avx2 = pulp::x86::V3::try_new().map(Self::Avx2);
            avx512.into_iter().chain(avx2)
        };
        #[cfg(not(all(target_arch = "x86_64", not(layra_portable))))]
        let native = std::iter::empty();
        native.chain([Self::Portable]).collect()
    }

    /// The fastest path of this CPU, whatever the environment says.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        // The portable path is always there.
        *BEST.get_or_init(|| Self::all().swap_remove(0))
    }

    /// As [`VARIABLE`] names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
            Self::Avx512(_) => "avx512",
            #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
            Self::Avx2(_) => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether weights are packed for the kernels here; else the tensor library computes.
    pub(crate) fn is_native(self) -> bool {
        !matches!(self, Self::Portable)
    }

    /// Runs `work` compiled for these instructions. What it calls must be inlined into it.
    #[inline]
    pub(crate) fn run<W: WithSimd>(self, work: W) -> W::Output {
        match self {
            #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
            Self::Avx512(simd) => Simd::vectorize(simd, work),
            #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
            Self::Avx2(simd) => Simd::vectorize(simd, work),
            #[cfg(target_arch = "x86_64")]
            Self::Portable => Simd::vectorize(pulp::Scalar::new(), work),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Portable => pulp::Arch::new().dispatch(work),
        }
    }
}

/// Refuses a value of `LAYRA_KERNELS` that is unknown, or that asks for instructions which this CPU
/// does not have. The error says what to set.
pub(crate) fn check() -> Result<(), String> {
    asked_for().map(drop)
}

fn asked_for() -> Result<Path, String> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    choose(&value.to_string_lossy(), &Path::all())
}

fn choose(value: &str, available: &[Path]) -> Result<Path, String> {
    let value = match value {
        "" | "auto" => return Ok(available[0]),
        value => value,
    };
    let found = available.iter().find(|path| path.name() == value);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = available.iter().map(|path| path.name()).collect();
        format!(
            "{VARIABLE} is {value:?}; on this CPU it can be auto, {}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_picks_what_the_cpu_has() {
        let all = Path::all();
        assert_eq!(choose("", &all).unwrap().name(), all[0].name());
        assert_eq!(choose("auto", &all).unwrap().name(), all[0].name());
        for path in &all {
            assert_eq!(choose(path.name(), &all).unwrap().name(), path.name());
        }
    }

    #[test]
    fn what_the_cpu_lacks_is_refused_with_what_it_has() {
        let error = choose("avx512", &[Path::Portable]).unwrap_err();
        assert_eq!(
            error,
            "LAYRA_KERNELS is \"avx512\"; on this CPU it can be auto, portable"
        );
    }
}
