//! How fast a value rises, without being misled by single values.

/// Points of a process that count; more would take long to compare in pairs.
const MOST_POINTS: usize = 500;
/// Of a life with fewer nothing can be said.
const FEWEST_POINTS: usize = 8;

/// The slope of values over what they depend on: the median of the slopes between all pairs of
/// points (Theil and Sen). Both points of a pair are of the same life, and the first quarter of a
/// life, in which a program fills its caches, does not count. None when all lives are too short.
pub(super) fn slope(lives: &[Vec<(f64, f64)>]) -> Option<f64> {
    let mut slopes = Vec::new();
    for life in lives {
        let points = warm(life);
        for (index, (x, y)) in points.iter().enumerate() {
            let later = points[index + 1..].iter();
            // What does not depend on the time may stand still.
            let later = later.filter(|(later, _)| later > x);
            slopes.extend(later.map(|(later, value)| (value - y) / (later - x)));
        }
    }
    if slopes.is_empty() {
        return None;
    }
    let middle = slopes.len() / 2;
    let (_, median, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}

/// The points of a life that count.
pub(super) fn warm(life: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points = &life[life.len() / 4..];
    if points.len() < FEWEST_POINTS {
        return Vec::new();
    }
    let step = points.len().div_ceil(MOST_POINTS);
    points.iter().step_by(step).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(length: u32, value: impl Fn(u32) -> f64) -> Vec<(f64, f64)> {
        (0..length).map(|x| (f64::from(x), value(x))).collect()
    }

    fn close(found: Option<f64>, wanted: f64) {
        assert!(
            found.is_some_and(|it| (it - wanted).abs() < 1e-9),
            "{found:?}"
        );
    }

    #[test]
    fn single_values_and_the_beginning_of_a_life_do_not_count() {
        let line = life(100, |x| 3.0 + 0.5 * f64::from(x));
        close(slope(std::slice::from_ref(&line)), 0.5);
        let mut spoilt = line;
        for x in [30, 55, 80, 99] {
            spoilt[x].1 += 1000.0;
        }
        close(slope(&[spoilt]), 0.5);
        // It fills its caches, and then stays where it is.
        close(slope(&[life(100, |x| f64::from(x.min(25)))]), 0.0);
    }

    #[test]
    fn a_program_that_started_again_is_another_life() {
        let lives = [life(40, |_| 90.0), life(60, |_| 20.0), life(5, f64::from)];
        close(slope(&lives), 0.0);
        assert_eq!(slope(&lives[2..]), None);
        // Without any work between them, two points say nothing.
        assert_eq!(slope(&[vec![(1.0, 5.0); 20]]), None);
    }

    #[test]
    fn a_long_life_is_thinned_out() {
        let long = life(100_000, |x| 2.0 * f64::from(x));
        assert!(warm(&long).len() <= MOST_POINTS);
        close(slope(&[long]), 2.0);
    }
}
