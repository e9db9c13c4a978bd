//! What a command did and how long that took, handed on from the program that prepares to the one
//! that it becomes. It measures and prints, nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Carries the phases so far to the next program: `seconds name`, a line each.
const VARIABLE: &str = "LAYRA_PHASES";

/// Names and seconds, in order.
#[derive(Clone, Debug, Default)]
pub struct Phases(Vec<(String, f64)>);

impl Phases {
    /// Those of the program that became this one, if there was one.
    #[must_use]
    pub fn inherited() -> Self {
        Self(parse(&std::env::var(VARIABLE).unwrap_or_default()))
    }

    /// The variable for the program that this one becomes.
    #[must_use]
    pub fn to_variable(&self) -> (&'static str, String) {
        let lines: Vec<String> = self
            .0
            .iter()
            .map(|(name, seconds)| format!("{seconds:.1} {name}"))
            .collect();
        (VARIABLE, lines.join("\n"))
    }

    /// Runs one phase, and prints its name before and its time after.
    pub async fn run<T>(&mut self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let value = work.await.with_context(|| name.to_owned())?;
        self.done(name, start);
        Ok(value)
    }

    /// Notes and prints a phase that began at `start` and ends now.
    pub fn done(&mut self, name: &str, start: Instant) {
        self.add(name, start.elapsed());
        println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    }

    /// Notes a phase.
    pub fn add(&mut self, name: &str, time: Duration) {
        self.0.push((name.to_owned(), time.as_secs_f64()));
    }

    /// Names and seconds.
    #[must_use]
    pub fn all(&self) -> &[(String, f64)] {
        &self.0
    }

    /// All of them as a table with their sum.
    pub fn print(&self) {
        println!("\ntime:");
        for (name, seconds) in &self.0 {
            println!("  {seconds:>7.1} s  {name}");
        }
        let sum: f64 = self.0.iter().map(|(_, seconds)| seconds).sum();
        println!("  {sum:>7.1} s  all ({:.0} minutes)", sum / 60.0);
    }
}

/// How long this process has run. `cargo run` becomes the program that it has compiled: at the
/// program's beginning that is what compiling it took. None where `/proc` does not tell.
#[must_use]
pub fn since_start_of_process() -> Option<Duration> {
    // Clock ticks of /proc are hundredths of a second on every Linux.
    const TICKS_A_SECOND: f64 = 100.0;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = uptime.split(' ').next()?.parse().ok()?;
    let start = super::process::start_time(std::process::id())? as f64 / TICKS_A_SECOND;
    Some(Duration::from_secs_f64((now - start).max(0.0)))
}

fn parse(text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter_map(|line| {
            let (seconds, name) = line.split_once(' ')?;
            Some((name.to_owned(), seconds.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_go_on_in_the_next_program() {
        let mut phases = Phases::default();
        phases.add("release build", Duration::from_secs(90));
        phases.add("rest of the artifacts", Duration::from_millis(500));
        let (_, text) = phases.to_variable();
        assert_eq!(parse(&text), phases.all());
    }

    #[test]
    fn this_process_began_a_moment_ago() {
        let time = since_start_of_process().unwrap();
        assert!(time < Duration::from_hours(1), "{time:?}");
    }
}
