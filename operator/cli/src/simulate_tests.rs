use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    command: Command,
}

/// The pipeline of the comparison, wherever the tests run.
const PIPELINE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/scaling/pipeline.yaml"
);
const VALID: &str = include_str!("../../../docs/scaling/pipeline.yaml");

fn refused(text: &str) -> String {
    format!("{:#}", parse_pipeline(text).unwrap_err())
}

#[test]
fn the_pipeline_of_the_comparison_is_valid() {
    let pipeline = parse_pipeline(VALID).unwrap();
    assert_eq!(pipeline.spec.scaling.max_replicas, 12);
}

#[test]
fn a_pipeline_that_cannot_be_simulated_is_refused_with_the_field() {
    assert_eq!(
        refused("kind: Pod"),
        "kind: found Pod; expected IngestionPipeline"
    );
    assert_eq!(
        refused("a: 1"),
        "kind: missing; expected an object of kind IngestionPipeline"
    );
    assert!(refused("kind: [").starts_with("not valid YAML: "));
    let error = refused("kind: IngestionPipeline\nmetadata: {name: a}\nspec: {}");
    assert!(error.contains("missing field `source`"), "{error}");
    let error = refused(&VALID.replace("maxReplicas: 12", "maxReplicas: 13"));
    assert!(
        error.starts_with("spec.scaling.maxReplicas: found 13; expected at most"),
        "{error}"
    );
    let error = refused(&VALID.replace("minReplicas: 0", "minReplicas: 20"));
    assert!(
        error.starts_with("spec.scaling.minReplicas: found 20"),
        "{error}"
    );
    let error = refused(&VALID.replace("drainTargetSeconds: 600", "drainTargetSeconds: 0"));
    assert!(
        error.starts_with("spec.scaling.drainTargetSeconds: found 0"),
        "{error}"
    );
}

fn parse(pipeline: &str, arguments: &str) -> Command {
    let words = ["simulate", "--pipeline", pipeline];
    Cli::parse_from(words.into_iter().chain(arguments.split_whitespace())).command
}

fn simulate(arguments: &str) -> String {
    run(&parse(PIPELINE, arguments)).unwrap()
}

#[test]
fn the_error_for_a_missing_file_names_the_file() {
    let error = format!(
        "{:#}",
        run(&parse("/nowhere/p.yaml", "--shape steady")).unwrap_err()
    );
    assert!(
        error.starts_with("--pipeline: /nowhere/p.yaml cannot be read"),
        "{error}"
    );
}

/// The aim of the comparison, for the seed of the documentation: no peer is better on both counts.
fn assert_never_beaten(suite: &str) {
    let none = "A peer is better on both: 0 of 51 cells";
    assert!(suite.contains(none), "{suite}");
}

#[test]
fn no_peer_is_better_on_both_counts_and_the_documented_results_are_fresh() {
    let suite = simulate("--suite");
    assert_never_beaten(&suite);
    let documented = include_str!("../../../docs/scaling/results.txt");
    assert!(
        suite == documented,
        "docs/scaling/results.txt is stale: run `kubectl-layra simulate --pipeline docs/scaling/pipeline.yaml --suite --svg docs/scaling > docs/scaling/results.txt`, and check that docs/scaling.md still agrees with it"
    );
}

#[test]
fn no_peer_is_better_on_both_counts_when_the_workers_are_known() {
    assert_never_beaten(&simulate("--suite --learned"));
}
