use clap::Parser;
use serde_json::Value;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: SimulateArgs,
}

/// The pipeline of the comparison, wherever the tests run.
const PIPELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/scaling/pipeline.yaml");

fn parse(arguments: &str) -> Result<SimulateArgs, String> {
    let words = ["simulate", "--pipeline", PIPELINE];
    let all = words.into_iter().chain(arguments.split_whitespace());
    match Cli::try_parse_from(all) {
        Ok(cli) => Ok(cli.args),
        Err(error) => Err(error.to_string()),
    }
}

fn simulate(arguments: &str) -> String {
    run(&parse(arguments).unwrap()).unwrap()
}

fn refused(arguments: &str) -> String {
    match parse(arguments) {
        Err(error) => error,
        Ok(args) => format!("{:#}", run(&args).unwrap_err()),
    }
}

#[test]
fn every_policy_has_its_figures_in_json() {
    let text = simulate("--shape burst --compare keda,hpa,numaflow,flink --output json");
    let json: Value = serde_json::from_str(&text).unwrap();
    for policy in ["layra", "keda", "hpa", "numaflow", "flink"] {
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
    assert!(why.contains("documents wait"), "{why}");
}

#[test]
fn without_peers_the_operator_is_there_alone() {
    let text = simulate("--shape rare --output json");
    let json: Value = serde_json::from_str(&text).unwrap();
    let policies = json["policies"].as_object().unwrap();
    assert_eq!(policies.keys().collect::<Vec<_>>(), ["layra"]);
}

#[test]
fn the_same_seed_gives_the_same_result_and_another_one_another() {
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
fn with_few_gpus_no_more_are_held() {
    let text = simulate("--shape burst --gpus 2 --compare keda --output json");
    let json: Value = serde_json::from_str(&text).unwrap();
    for policy in ["layra", "keda"] {
        assert_eq!(json["policies"][policy]["peak_gpus"], 2, "{policy}");
    }
}

#[test]
fn wrong_arguments_are_refused_with_what_is_expected() {
    for (arguments, error) in [
        ("", "the following required arguments were not provided"),
        ("--shape steady --suite", "cannot be used with"),
        ("--shape square", "invalid value 'square'"),
        ("--shape steady --compare keda,borg", "invalid value 'borg'"),
        (
            "--shape steady --pages-per-second 0",
            "expected pages a second",
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

#[test]
fn a_pipeline_that_is_not_there_is_named() {
    let mut args = parse("--shape steady").unwrap();
    args.pipeline = "/nowhere/p.yaml".into();
    let error = format!("{:#}", run(&args).unwrap_err());
    assert!(
        error.starts_with("--pipeline: /nowhere/p.yaml cannot be read"),
        "{error}"
    );
}

/// The aim of the comparison, for the seed of the documentation: no peer is better on both counts.
fn assert_never_beaten(suite: &str) {
    let none = "A peer is better on both: 0 of 39 cells";
    assert!(suite.contains(none), "{suite}");
}

#[test]
fn no_peer_is_better_on_both_counts_and_the_documented_results_are_fresh() {
    let suite = simulate("--suite");
    assert_never_beaten(&suite);
    let documented = include_str!("../../../docs/scaling/results.txt");
    assert!(
        suite == documented,
        "docs/scaling/results.txt is stale: run `layra-operator simulate --pipeline docs/scaling/pipeline.yaml --suite --svg docs/scaling > docs/scaling/results.txt`, and look whether docs/scaling.md still tells what it says"
    );
}

#[test]
fn no_peer_is_better_on_both_counts_when_the_workers_are_known() {
    assert_never_beaten(&simulate("--suite --learned"));
}
