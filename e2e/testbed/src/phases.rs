//! The phases of a command and their durations, passed on from the program that prepares to the
//! program that it executes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Passes the phases so far to the next program: one line `seconds name` each.
const VARIABLE: &str = "LAYRA_PHASES";

/// Names of the phases with their seconds, in order.
#[derive(Clone, Debug, Default)]
pub struct Phases(Vec<(String, f64)>);

impl Phases {
    /// The phases of the program that has executed this one, if any.
    #[must_use]
    pub fn inherited() -> Self {
        Self(parse(&std::env::var(VARIABLE).unwrap_or_default()))
    }

    /// Name and value of the variable for the next program.
    #[must_use]
    pub fn to_variable(&self) -> (&'static str, String) {
        let lines: Vec<String> = self
            .0
            .iter()
            .map(|(name, seconds)| format!("{seconds:.1} {name}"))
            .collect();
        (VARIABLE, lines.join("\n"))
    }

    /// Runs a phase. Prints its name before and its duration after.
    pub async fn run<T>(&mut self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let value = work.await.with_context(|| name.to_owned())?;
        self.done(name, start);
        Ok(value)
    }

    /// Adds and prints a phase that began at `start` and ends now.
    pub fn done(&mut self, name: &str, start: Instant) {
        self.add(name, start.elapsed());
        println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    }

    /// Adds a phase.
    pub fn add(&mut self, name: &str, time: Duration) {
        self.0.push((name.to_owned(), time.as_secs_f64()));
    }

    /// Names of the phases with their seconds.
    #[must_use]
    pub fn all(&self) -> &[(String, f64)] {
        &self.0
    }

    /// Prints all phases as a table with their sum.
    pub fn print(&self) {
        println!("\ntime:");
        for (name, seconds) in &self.0 {
            println!("  {seconds:>7.1} s  {name}");
        }
        let sum: f64 = self.0.iter().map(|(_, seconds)| seconds).sum();
        println!("  {sum:>7.1} s  total ({:.0} minutes)", sum / 60.0);
    }
}

/// Age of this process; none without `/proc`. `cargo run` executes the program that it has compiled
/// in its own process: at the start of the program, this is the time that compiling it took.
#[must_use]
pub fn since_start_of_process() -> Option<Duration> {
    // Clock ticks in /proc are hundredths of a second on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = uptime.split(' ').next()?.parse().ok()?;
    let start = super::process::start_time(std::process::id())? as f64 / TICKS_PER_SECOND;
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
    fn phases_are_passed_on_to_the_next_program() {
        let mut phases = Phases::default();
        phases.add("release build", Duration::from_secs(90));
        phases.add("rest of the artifacts", Duration::from_millis(500));
        let (_, text) = phases.to_variable();
        assert_eq!(parse(&text), phases.all());
    }

    #[test]
    fn this_process_is_young() {
        let time = since_start_of_process().unwrap();
        assert!(time < Duration::from_hours(1), "{time:?}");
    }
}
