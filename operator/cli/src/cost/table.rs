//! The report for people.

use std::fmt::Write as _;

use super::report::{Figure, Report};

pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    let currency = report.currency.as_deref().unwrap_or_default();
    for section in &report.sections {
        let _ = writeln!(text, "{}", section.title);
        for figure in &section.figures {
            let _ = writeln!(text, "{}", line(figure, currency));
        }
    }
    if !report.missing.is_empty() {
        let _ = writeln!(text, "missing: what needs it is left out");
        for missing in &report.missing {
            let _ = writeln!(text, "  {:<39} {}", missing.input, missing.comes_from);
        }
    }
    text
}

fn line(figure: &Figure, currency: &str) -> String {
    let value = format!("{} {}", number(figure.value), figure.unit);
    let price = figure.price_per_month;
    let price = price.map_or_else(String::new, |price| {
        format!("{} {currency} a month", number(price))
    });
    let (name, source, from) = (&figure.name, figure.source.words(), &figure.from);
    format!("  {name:<39} {value:<24} {price:<21} {source}: {from}")
}

/// Two decimals, or two digits of a number below 1; none from 1000 on.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        format!("{value:.0}")
    } else if size >= 1.0 {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else if size > 0.0 {
        // 0.05 has one zero behind the point.
        let mut decimals = 2_usize;
        let mut scaled = size;
        while scaled < 0.1 && decimals < 12 {
            scaled *= 10.0;
            decimals += 1;
        }
        format!("{value:.decimals$}")
    } else {
        "0".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        for (value, text) in [
            (0.0, "0"),
            (0.000_123_4, "0.00012"),
            (0.05, "0.050"),
            (0.5, "0.50"),
            (1.0, "1"),
            (1.67, "1.67"),
            (999.5, "999.5"),
            (1234.5, "1234"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
    }
}
