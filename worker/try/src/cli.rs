//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};

/// Ends the help of `cargo try`.
const EVALUATE: &str = "`cargo try evaluate --help`: measure the search with your own questions.";

/// What to do.
#[derive(Debug)]
pub(crate) enum Cli {
    Look(Look),
    Evaluate(Evaluate),
}

impl Cli {
    /// Reads the command line, with the program's name first.
    pub(crate) fn read(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        if arguments.get(1).is_some_and(|word| word == "evaluate") {
            let command = Evaluate::command().bin_name("cargo try evaluate");
            let matches = command.try_get_matches_from(&arguments[1..])?;
            return Evaluate::from_arg_matches(&matches).map(Self::Evaluate);
        }
        let command = Look::command().bin_name("cargo try").after_help(EVALUATE);
        let matches = command.try_get_matches_from(arguments)?;
        Look::from_arg_matches(&matches).map(Self::Look)
    }
}

/// Searches the documents of a folder on this machine: no server, no cluster, no root. Opens a page
/// for questions, or answers in the terminal.
#[derive(Clone, Debug, Parser)]
pub struct Look {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Answer this question in the terminal, and end. Can be repeated.
    #[arg(long, value_name = "QUESTION")]
    pub(crate) ask: Vec<String>,
    /// Pages of an answer in the terminal.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) top: u8,
    /// Port of the page on localhost; if it is taken, one of the next.
    #[arg(long, default_value_t = 7979)]
    pub(crate) port: u16,
    /// Do not open the page in the browser.
    #[arg(long)]
    pub(crate) no_open: bool,
}

/// Measures the search with questions whose pages are known.
#[derive(Clone, Debug, Parser)]
pub struct Evaluate {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Folder with queries.jsonl and qrels.tsv.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) questions: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is read, with what.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// The folder with the documents.
    pub(crate) folder: PathBuf,
    /// Folder of the model: all-MiniLM-L6-v2 (the default of `cargo try`), or a checkpoint of
    /// ColQwen2, ColQwen2.5 or ColQwen3, which reads the pages' pictures.
    #[arg(long, value_name = "FOLDER", env = "LAYRA_MINILM")]
    pub(crate) model: PathBuf,
    /// Folder for vectors, texts and pictures. Default: one in ~/.cache/layra-try for each folder
    /// and model.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// The PDFium library, libpdfium.so.
    #[arg(long, value_name = "FILE", env = "LAYRA_PDFIUM")]
    pub(crate) pdfium: PathBuf,
    /// Whether documents are opened where the kernel lacks a part of the sandbox.
    #[arg(long, value_enum, default_value_t = Sandbox::Required)]
    pub(crate) sandbox: Sandbox,
}

/// What to do where the kernel lacks Landlock or seccomp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// Open no document.
    Required,
    /// Open documents with what the kernel has.
    BestEffort,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Look::command().debug_assert();
        Evaluate::command().debug_assert();
    }

    #[test]
    fn a_folder_or_a_command_is_given() {
        let read = |line: &str| Cli::read(line.split(' ').map(OsString::from).collect());
        let look = read("try docs --ask what? --model m --pdfium p").unwrap();
        assert!(matches!(look, Cli::Look(look) if look.ask == ["what?"]));
        let evaluate = read("try evaluate docs --questions q --model m --pdfium p").unwrap();
        assert!(matches!(evaluate, Cli::Evaluate(_)));
        assert!(read("try --model m --pdfium p").is_err());
    }
}
