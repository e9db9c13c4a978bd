//! Instruction set of the kernels: the best of this CPU, or the one set by `LAYRA_KERNELS`, so that
//! paths can be tested and compared on one machine.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use pulp::Simd;
use pulp::WithSimd;

/// The environment variable that selects a path: `auto` (the default), `avx512`, `avx2` or
/// `portable`.
const VARIABLE: &str = "LAYRA_KERNELS";

/// An instruction set that this CPU supports.
///
/// With `--cfg layra_portable` only the portable path exists, as on all architectures except
/// x86-64.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// AVX-512: 32 registers of 16 values.
    #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
    Avx512(pulp::x86::V4),
    /// AVX2 and FMA: 16 registers of 8 values.
    #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
    Avx2(pulp::x86::V3),
    /// No packed weights: matrix products and attention use the tensor library.
    Portable,
}

impl Path {
    /// The path of this process. Values that [`check`] refuses count as `auto`.
    pub(crate) fn chosen() -> Self {
        static CHOSEN: OnceLock<Path> = OnceLock::new();
        *CHOSEN.get_or_init(|| requested().unwrap_or_else(|_| Self::best()))
    }

    /// All paths that this CPU supports, fastest first.
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

    /// The fastest path of this CPU, regardless of the environment.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        // The portable path always exists.
        *BEST.get_or_init(|| Self::all().swap_remove(0))
    }

    /// Its name in [`VARIABLE`].
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
            Self::Avx512(_) => "avx512",
            #[cfg(all(target_arch = "x86_64", not(layra_portable)))]
            Self::Avx2(_) => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether weights are packed for these kernels; if not, the tensor library multiplies.
    pub(crate) fn is_native(self) -> bool {
        !matches!(self, Self::Portable)
    }

    /// Runs `work` compiled for this instruction set. Everything that it calls must be inlined.
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

/// Refuses a value of `LAYRA_KERNELS` that is unknown or not supported by this CPU. The error lists
/// the values that are.
pub(crate) fn check() -> Result<(), String> {
    requested().map(drop)
}

fn requested() -> Result<Path, String> {
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
            "{VARIABLE} is {value:?}, but this CPU supports auto, {}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_selects_a_supported_path() {
        let all = Path::all();
        assert_eq!(choose("", &all).unwrap().name(), all[0].name());
        assert_eq!(choose("auto", &all).unwrap().name(), all[0].name());
        for path in &all {
            assert_eq!(choose(path.name(), &all).unwrap().name(), path.name());
        }
    }

    #[test]
    fn an_unsupported_path_is_refused_with_the_supported_ones() {
        let error = choose("avx512", &[Path::Portable]).unwrap_err();
        assert_eq!(
            error,
            "LAYRA_KERNELS is \"avx512\", but this CPU supports auto, portable"
        );
    }
}
