//! What to do about a condition: the table of `docs/conditions.md`, which is part of this program.
//! So both always say the same.

const GUIDE: &str = include_str!("../../../docs/conditions.md");

/// A row of the table: the reasons, for which status it holds, and what to do.
struct Row {
    reasons: Vec<String>,
    /// `(True)` or `(False)` behind the reason.
    status: Option<&'static str>,
    advice: String,
}

/// What the guide says about a reason; `None` if it says nothing.
pub(crate) fn advice(reason: &str, status: &str) -> Option<String> {
    let mut rows: Vec<Row> = rows(GUIDE);
    rows.retain(|row| row.reasons.iter().any(|known| known == reason));
    let exact = rows.iter().position(|row| row.status == Some(status));
    let row = rows.into_iter().nth(exact.unwrap_or(0))?;
    Some(row.advice)
}

fn rows(guide: &str) -> Vec<Row> {
    guide
        .lines()
        .filter_map(|line| {
            let cells = line.strip_prefix('|')?.strip_suffix('|')?;
            let mut cells = cells.splitn(3, '|');
            let (_, reason, advice) = (cells.next()?, cells.next()?, cells.next()?);
            let status = ["True", "False"]
                .into_iter()
                .find(|status| reason.contains(&format!("({status})")));
            let reasons = reason.split('`').skip(1).step_by(2).map(str::to_owned);
            Some(Row {
                reasons: reasons.collect(),
                status,
                advice: sentence(advice.trim()),
            })
        })
        .collect()
}

/// A cell without Markdown, as a sentence.
fn sentence(cell: &str) -> String {
    let cell = without_links(cell)
        .replace("\\|", "|")
        .replace(" (Stalled)", "");
    let mut letters = cell.chars();
    let first = letters.next().map(char::to_uppercase);
    let mut text: String = first.into_iter().flatten().chain(letters).collect();
    if !text.ends_with('.') && !text.is_empty() {
        text.push('.');
    }
    text
}

/// `[text](address)` is `text`.
fn without_links(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        let parts = link.split_once("](").and_then(|(words, after)| {
            let (_, after) = after.split_once(')')?;
            Some((words, after))
        });
        if let Some((words, after)) = parts {
            text.push_str(words);
            rest = after;
        } else {
            text.push('[');
            rest = link;
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::NORMAL;

    #[test]
    fn every_reason_of_the_table_has_advice_without_markdown() {
        let rows = rows(GUIDE);
        let reasons: Vec<&String> = rows.iter().flat_map(|row| &row.reasons).collect();
        assert!(reasons.len() > 50, "{reasons:?}");
        for reason in reasons {
            let advice = advice(reason, "False").unwrap();
            assert!(
                advice.ends_with('.') && advice.len() > 4,
                "{reason}: {advice}"
            );
            assert!(!advice.contains("]("), "{reason}: {advice}");
        }
        assert_eq!(advice("FromTheFuture", "False"), None);
    }

    #[test]
    fn the_advice_is_a_sentence_and_may_depend_on_the_status() {
        let words = "Check `stores.milvus.uri` and the token, and that Milvus is up.";
        assert_eq!(advice("MilvusUnreachable", "False").as_deref(), Some(words));
        let accepted = advice("ChangedByOthers", "True").unwrap();
        let fought = advice("ChangedByOthers", "False").unwrap();
        assert!(accepted.contains("admission webhook"), "{accepted}");
        assert!(fought.contains("Stop it"), "{fought}");
        let linked = advice("QuotaReached", "False").unwrap();
        assert!(linked.contains("raise the quota."), "{linked}");
        let stalled = advice("NameTooLong", "False").unwrap();
        assert!(stalled.ends_with("delete this one."), "{stalled}");
    }

    #[test]
    fn what_is_normal_is_what_the_guide_calls_so() {
        let start = "When nothing is wrong, the reasons are";
        let (_, rest) = GUIDE.split_once(start).unwrap();
        let sentence = rest.split("\n\n").next().unwrap();
        let words = sentence.split('`').skip(1).step_by(2);
        let mut words: Vec<&str> = words.filter(|word| !word.contains('.')).collect();
        words.sort_unstable();
        let mut normal = NORMAL.to_vec();
        normal.sort_unstable();
        assert_eq!(words, normal);
    }
}
