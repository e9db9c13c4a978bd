//! The indexes that workers and LAYRA need: which of them do not exist, and their creation.

use std::fmt;

use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document};
use mongodb::error::ErrorKind;
use mongodb::options::IndexOptions;
use mongodb::{Collection, IndexModel};

use super::{Documents, answer, ask};
use crate::runtime::failure::Failure;

/// An index that a query needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Needed {
    collection: &'static str,
    /// LAYRA's name of it, or MongoDB's.
    name: &'static str,
    fields: &'static [&'static str],
    unique: bool,
    sparse: bool,
    /// What is slow without it.
    query: &'static str,
}

const PLAIN: Needed = Needed {
    collection: "",
    name: "",
    fields: &[],
    unique: false,
    sparse: false,
    query: "",
};

/// All of them. `LAYRA` creates its own when it connects; another database, or a restored one, may
/// lack them.
pub(crate) const NEEDED: [Needed; 6] = [
    Needed {
        collection: "files",
        name: "unique_file_id",
        fields: &["file_id"],
        unique: true,
        query: "every write and look-up of a file",
        ..PLAIN
    },
    Needed {
        collection: "files",
        name: "kb_file_query",
        fields: &["knowledge_db_id"],
        query: "counting, listing and deleting the files of a knowledge base",
        ..PLAIN
    },
    Needed {
        collection: "knowledge_bases",
        name: "unique_kb_id",
        fields: &["knowledge_base_id"],
        unique: true,
        query: "every write and look-up of a knowledge base",
        ..PLAIN
    },
    Needed {
        collection: "knowledge_bases",
        name: "user_kb_query",
        fields: &["username", "is_delete"],
        query: "LAYRA's list of a user's knowledge bases",
        ..PLAIN
    },
    Needed {
        collection: "ingestion_ledger",
        name: "knowledge_db_id_1",
        fields: &["knowledge_db_id"],
        query: "the deletion of a knowledge base",
        ..PLAIN
    },
    Needed {
        collection: "ingestion_ledger",
        name: "recheck_at_1",
        fields: &["recheck_at"],
        sparse: true,
        query: "rechecks, every 20 seconds",
        ..PLAIN
    },
];

impl Needed {
    /// Whether an index serves the query: its first fields are those of the query.
    fn is_served_by(&self, index: &IndexModel) -> bool {
        let options = index.options.as_ref();
        let is_unique = options.and_then(|options| options.unique) == Some(true);
        let is_partial = options.is_some_and(|it| it.partial_filter_expression.is_some());
        let fields = || index.keys.iter();
        let ordered = fields().all(|(_, order)| !matches!(order, Bson::String(_)));
        let begins = fields()
            .map(|(field, _)| field.as_str())
            .take(self.fields.len())
            .eq(self.fields.iter().copied());
        let is_exact = index.keys.len() == self.fields.len();
        begins && ordered && !is_partial && (!self.unique || (is_unique && is_exact))
    }

    fn keys(&self) -> Document {
        self.fields
            .iter()
            .map(|field| ((*field).to_owned(), Bson::Int32(1)))
            .collect()
    }

    fn model(&self) -> IndexModel {
        let options = IndexOptions::builder()
            .name(self.name.to_owned())
            .unique(self.unique.then_some(true))
            .sparse(self.sparse.then_some(true))
            .build();
        IndexModel::builder()
            .keys(self.keys())
            .options(options)
            .build()
    }
}

/// As a person would create it, with what needs it.
impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(|it| format!("{it}: 1")).collect();
        let options = match (self.unique, self.sparse) {
            (true, _) => ", {unique: true}",
            (_, true) => ", {sparse: true}",
            _ => "",
        };
        write!(
            f,
            "db.{}.createIndex({{{}}}{options}) for {}",
            self.collection,
            fields.join(", "),
            self.query
        )
    }
}

impl Documents {
    /// Those of the needed indexes that do not exist. A collection that does not exist needs none.
    pub(crate) async fn missing_indexes(&self) -> Result<Vec<&'static Needed>, Failure> {
        let mut missing = Vec::new();
        for name in ["files", "knowledge_bases", "ingestion_ledger"] {
            let Some(indexes) = self.indexes(name).await? else {
                continue;
            };
            let needed = NEEDED.iter().filter(|needed| needed.collection == name);
            let is_missing =
                |needed: &&Needed| !indexes.iter().any(|index| needed.is_served_by(index));
            missing.extend(needed.filter(is_missing));
        }
        Ok(missing)
    }

    /// Creates an index, and waits until it is built, however long that takes.
    pub(crate) async fn create_index(&self, needed: &Needed) -> Result<(), Failure> {
        self.collection(needed.collection)
            .create_index(needed.model())
            .await?;
        Ok(())
    }

    async fn indexes(&self, collection: &str) -> Result<Option<Vec<IndexModel>>, Failure> {
        let listed = answer(self.collection(collection).list_indexes()).await?;
        match listed {
            Ok(indexes) => Ok(Some(ask(indexes.try_collect()).await?)),
            // NamespaceNotFound
            Err(error) if matches!(&*error.kind, ErrorKind::Command(command) if command.code == 26) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database().collection(name)
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn index(keys: Document, options: IndexOptions) -> IndexModel {
        IndexModel::builder().keys(keys).options(options).build()
    }

    fn plain() -> IndexOptions {
        IndexOptions::default()
    }

    #[test]
    fn an_index_serves_queries_on_its_first_fields_under_any_name() {
        let unique = IndexOptions::builder().unique(true).build();
        let [file, of_base, ..] = &NEEDED;
        assert!(file.is_served_by(&index(doc! { "file_id": 1 }, unique.clone())));
        assert!(
            !file.is_served_by(&index(doc! { "file_id": 1 }, plain())),
            "not unique"
        );
        let pair = doc! { "file_id": 1, "username": 1 };
        assert!(
            !file.is_served_by(&index(pair, unique)),
            "the pair is unique"
        );

        let longer = doc! { "knowledge_db_id": -1, "created_at": 1 };
        assert!(of_base.is_served_by(&index(longer, plain())));
        let later = doc! { "created_at": 1, "knowledge_db_id": 1 };
        assert!(!of_base.is_served_by(&index(later, plain())));
        let text = doc! { "knowledge_db_id": "hashed" };
        assert!(!of_base.is_served_by(&index(text, plain())));
        let partial = IndexOptions::builder()
            .partial_filter_expression(doc! { "is_delete": false })
            .build();
        assert!(!of_base.is_served_by(&index(doc! { "knowledge_db_id": 1 }, partial)));
    }

    #[test]
    fn each_needed_index_serves_itself_and_is_shown_as_a_person_creates_it() {
        for needed in &NEEDED {
            assert!(needed.is_served_by(&needed.model()), "{needed}");
            assert!(!needed.query.is_empty() && !needed.name.is_empty());
        }
        assert_eq!(
            NEEDED[0].to_string(),
            "db.files.createIndex({file_id: 1}, {unique: true}) for every write and look-up of a file"
        );
    }
}
