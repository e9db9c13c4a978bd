//! Loops over numbers, compiled once for each width of vectors and chosen when they run: the
//! programs are built for any x86-64, whose vectors are a quarter of today's.

/// Runs `work`, which must be an `#[inline(always)]` function, with the widest vectors that this
/// CPU has.
pub(super) fn vectorized<T, R>(argument: T, work: impl FnOnce(T) -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    #[expect(
        unsafe_code,
        reason = "calling a function that is compiled for instructions that were found"
    )]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has these instructions.
            return unsafe { with_avx512(argument, work) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            // SAFETY: the CPU has these instructions.
            return unsafe { with_avx2(argument, work) };
        }
    }
    work(argument)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn with_avx512<T, R>(argument: T, work: impl FnOnce(T) -> R) -> R {
    work(argument)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<T, R>(argument: T, work: impl FnOnce(T) -> R) -> R {
    work(argument)
}
