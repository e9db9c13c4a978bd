use std::num::NonZeroU32;

use clap::Parser;
use jiff::SignedDuration;
use serde_json::Value;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: SimulateArgs,
}

/// Twelve partitions, from zero to twelve workers.
fn pipeline() -> Pipeline {
    Pipeline {
        partitions: 12,
        range_pages: 64,
        policy: Policy {
            floor: 0,
            max: NonZeroU32::new(12).unwrap(),
            drain_target: SignedDuration::from_secs(600),
            utilization: 0.8,
            activation: None,
            scale_down_delay: None,
            max_pending: NonZeroU32::new(2).unwrap(),
            fallback: None,
            range_pages: 64.0,
            assumed: Learned {
                pages_per_second: 10.0,
                pages_per_document: 10.0,
                provisioning_seconds: 0.0,
                startup_seconds: 120.0,
                longest_seconds: 0.0,
            },
        },
    }
}

fn parse(arguments: &str) -> Result<SimulateArgs, String> {
    let all = std::iter::once("simulate").chain(arguments.split_whitespace());
    match Cli::try_parse_from(all) {
        Ok(cli) => Ok(cli.args),
        Err(error) => Err(error.to_string()),
    }
}

fn simulate(arguments: &str) -> String {
    run(pipeline(), &parse(arguments).unwrap()).unwrap()
}

fn refused(arguments: &str) -> String {
    match parse(arguments) {
        Err(error) => error,
        Ok(args) => format!("{:#}", run(pipeline(), &args).unwrap_err()),
    }
}

#[test]
fn every_policy_has_its_figures_in_json() {
    let text = simulate("--shape burst --compare keda,hpa,numaflow,flink,llm-d --output json");
    let json: Value = serde_json::from_str(&text).unwrap();
    for policy in ["layra", "keda", "hpa", "numaflow", "flink", "llm-d"] {
        let figures = &json["policies"][policy];
        for figure in [
            "gpu_seconds",
            "seconds_over_target",
            "rescales",
            "max_lag_documents",
        ] {
            assert!(figures[figure].is_u64(), "{policy} {figure}: {figures}");
        }
        let drained = &figures["drained_at_second"];
        assert!(drained.is_u64(), "{policy}: {drained}");
    }
    let changes = json["policies"]["layra"]["changes"].as_array().unwrap();
    let why = changes[0]["why"].as_str().unwrap();
    assert!(why.contains("Backlog: "), "{why}");
}

#[test]
fn without_peers_only_the_operator_is_simulated() {
    let text = simulate("--shape rare --output json");
    let json: Value = serde_json::from_str(&text).unwrap();
    let policies = json["policies"].as_object().unwrap();
    assert_eq!(policies.keys().collect::<Vec<_>>(), ["layra"]);
}

#[test]
fn the_same_seed_gives_the_same_result_and_another_seed_does_not() {
    let run = |seed: u32| {
        simulate(&format!(
            "--shape erratic --seed {seed} --compare keda --output json"
        ))
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}

#[test]
fn the_table_has_a_line_for_each_policy() {
    let text = simulate("--shape steady --compare hpa");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("policy") && lines[0].contains("seconds_over_target"));
    assert!(lines[1].starts_with("layra") && lines[2].starts_with("hpa"));
}

#[test]
fn a_trace_from_a_file_is_simulated_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    std::fs::write(&trace, "second,documents,pages_per_document\n30,12,4\n").unwrap();
    let picture = folder.path().join("deep/picture.svg");
    let arguments = format!(
        "--trace {} --svg {} --output json --pages-per-second 4 --startup-seconds 10",
        trace.display(),
        picture.display()
    );
    let json: Value = serde_json::from_str(&simulate(&arguments)).unwrap();
    let figures = &json["policies"]["layra"];
    assert_eq!(figures["max_lag_documents"], 12);
    assert_eq!(figures["seconds_over_target"], 0);
    let svg = std::fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("Simulation: ") && svg.contains("start-up 10 s"));
}

#[test]
fn no_more_gpus_are_held_than_there_are() {
    let text = simulate("--shape burst --gpus 2 --compare keda --output json");
    let json: Value = serde_json::from_str(&text).unwrap();
    for policy in ["layra", "keda"] {
        assert_eq!(json["policies"][policy]["peak_gpus"], 2, "{policy}");
    }
}

#[test]
fn invalid_arguments_are_refused_with_what_is_expected() {
    for (arguments, error) in [
        ("", "the following required arguments were not provided"),
        ("--shape steady --suite", "cannot be used with"),
        ("--shape square", "invalid value 'square'"),
        ("--shape steady --compare keda,borg", "invalid value 'borg'"),
        (
            "--shape steady --pages-per-second 0",
            "expected pages per second",
        ),
        ("--suite --startup-seconds 5", "cannot be used with"),
        (
            "--trace /nowhere/t.csv",
            "--trace: /nowhere/t.csv cannot be read",
        ),
    ] {
        let found = refused(arguments);
        assert!(found.contains(error), "{arguments}: {found}");
    }
}
