//! LAYRA's `files` and `knowledge_bases` in MongoDB.
//!
//! Every write is idempotent. Page numbers are 1-based here and 0-based in Milvus, as in LAYRA.

mod failed_pages;
pub(crate) mod indexes;
mod list_size;
mod page_texts;
mod shown;
mod whole;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::{
    ClientOptions, IndexOptions, ReadConcern, ReadPreference, Tls, TlsOptions, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};

use crate::document::task::Task;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secret;

pub(crate) use page_texts::PageText;
#[cfg(test)]
pub(crate) use shown::ShownPage;
pub(crate) use shown::{ShownBase, ShownFile};
pub(crate) use whole::BaseLife;

/// Longest wait for the answer to one request. The driver has no limit: it would wait forever for a
/// server or a network that stops answering without closing the connection.
pub(crate) const LONGEST_REQUEST: Duration = Duration::from_secs(30);

/// LAYRA's collections in MongoDB.
#[derive(Clone, Debug)]
pub(crate) struct Documents {
    database: Database,
    files: Collection<Document>,
    knowledge_bases: Collection<Document>,
    /// Texts of pages. They are not LAYRA's.
    texts: Collection<Document>,
}

/// A page of a file: an element of `files.images[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageEntry {
    /// `images_id`, equal to Milvus' `image_id`.
    pub(crate) image_id: String,
    /// `minio_filename`
    pub(crate) key: String,
    /// `minio_url`
    pub(crate) url: String,
    /// `page_number`, from 1.
    pub(crate) number: u32,
}

/// The stored fields of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredFile {
    /// The name of the uploaded file.
    pub(crate) name: String,
    /// The id of its knowledge base.
    pub(crate) knowledge_base: Option<String>,
    /// The key of the original.
    pub(crate) original: Option<String>,
    /// `images_id` and `minio_filename` of its pages.
    pub(crate) pages: Vec<(String, String)>,
}

impl Documents {
    /// Creates a client, which connects in the background.
    /// `authorities` is a file with the certificates to trust instead of those of the image.
    pub(crate) async fn new(
        uri: &Secret,
        authorities: Option<&Path>,
        database: &str,
    ) -> Result<Self, Failure> {
        let options = client_options(uri, authorities).await?;
        let client = Client::with_options(options)?;
        let database = client.database(database);
        Ok(Self {
            files: database.collection("files"),
            knowledge_bases: database.collection("knowledge_bases"),
            texts: database.collection(page_texts::COLLECTION),
            database,
        })
    }

    /// Fails if the server does not respond, or refuses the login.
    pub(crate) async fn ping(&self) -> Result<(), Failure> {
        ask(self.database.run_command(doc! { "ping": 1 })).await?;
        Ok(())
    }

    /// Fails if the server does not respond. Creates LAYRA's unique indexes, unless they exist.
    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        let unique = |key: &str, name: &str| {
            let options = IndexOptions::builder()
                .name(name.to_owned())
                .unique(true)
                .build();
            IndexModel::builder()
                .keys(doc! { key: 1 })
                .options(options)
                .build()
        };
        self.ping().await?;
        for (collection, index) in [
            (&self.files, unique("file_id", "unique_file_id")),
            (
                &self.knowledge_bases,
                unique("knowledge_base_id", "unique_kb_id"),
            ),
        ] {
            match answer(collection.create_index(index)).await? {
                Ok(_) => {}
                // The index exists under another name, or LAYRA has stored duplicates.
                Err(error) if matches!(*error.kind, ErrorKind::Command(_)) => {
                    let collection = collection.name();
                    tracing::warn!(collection, %error, "unique index not created");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether the knowledge base exists. LAYRA creates it before it sends the first task.
    pub(crate) async fn has_knowledge_base(&self, id: &str) -> Result<bool, Failure> {
        let found = self
            .knowledge_bases
            .find_one(doc! { "knowledge_base_id": id })
            .projection(doc! { "_id": 1 });
        Ok(ask(found).await?.is_some())
    }

    /// Creates a knowledge base, unless it exists.
    pub(crate) async fn ensure_knowledge_base(
        &self,
        id: &str,
        name: &str,
        username: &str,
    ) -> Result<(), Failure> {
        let now = DateTime::now();
        let fields = doc! {
            "knowledge_base_id": id, "knowledge_base_name": name, "username": username,
            "files": [], "used_chat": [], "created_at": now, "last_modify_at": now,
            "is_delete": false,
        };
        let update = self
            .knowledge_bases
            .update_one(
                doc! { "knowledge_base_id": id },
                doc! { "$setOnInsert": fields },
            )
            .upsert(true);
        ask(update).await?;
        Ok(())
    }

    /// Adds a file to `files` and to its knowledge base, unless it is there. Returns whether
    /// `files` had it before.
    pub(crate) async fn enter_file(&self, task: &Task, url: &str) -> Result<bool, Failure> {
        let now = DateTime::now();
        let file = &task.file;
        let fields = doc! {
            "file_id": &file.file_id, "filename": &file.name, "username": &task.username,
            "minio_filename": &file.key, "minio_url": url,
            "knowledge_db_id": &task.knowledge_base, "images": [],
            "created_at": now, "last_modify_at": now, "is_delete": false,
        };
        let entered = self
            .files
            .update_one(
                doc! { "file_id": &file.file_id },
                // Pages that failed in an earlier round are tried again.
                doc! { "$setOnInsert": fields, "$unset": { failed_pages::FIELD: "" } },
            )
            .upsert(true);
        let entered = ask(entered).await?;
        let listed = ask(self.knowledge_bases.update_one(
            doc! {
                "knowledge_base_id": &task.knowledge_base,
                "files.file_id": { "$ne": &file.file_id },
            },
            doc! {
                "$push": { "files": list_entry(task, url, now) },
                "$set": { "last_modify_at": now },
            },
        ));
        listed.await.map_err(|failure| match failure.reason {
            Reason::DocumentTooLarge => Failure {
                reason: Reason::KnowledgeBaseFull,
                ..failure
            },
            _ => failure,
        })?;
        Ok(entered.upserted_id.is_none())
    }

    /// The ids of the files of a knowledge base.
    pub(crate) async fn files_of(&self, knowledge_base: &str) -> Result<Vec<String>, Failure> {
        let found = self
            .files
            .find(doc! { "knowledge_db_id": knowledge_base })
            .projection(doc! { "file_id": 1 });
        let mut found = ask(found).await?;
        let mut ids = Vec::new();
        while let Some(file) = ask(found.try_next()).await? {
            ids.push(file.get_str("file_id").unwrap_or_default().to_owned());
        }
        Ok(ids)
    }

    /// The knowledge bases whose ids differ from `id` at most in `-` and `_`.
    pub(crate) async fn knowledge_bases_like(&self, id: &str) -> Result<Vec<String>, Failure> {
        let found = self
            .knowledge_bases
            .find(doc! { "knowledge_base_id": { "$regex": pattern_like(id) } })
            .projection(doc! { "knowledge_base_id": 1 });
        let mut found = ask(found).await?;
        let mut ids = Vec::new();
        while let Some(found) = ask(found.try_next()).await? {
            ids.push(text(&found, "knowledge_base_id"));
        }
        Ok(ids)
    }

    /// Removes a knowledge base, without its files.
    pub(crate) async fn remove_knowledge_base(&self, id: &str) -> Result<(), Failure> {
        let filter = doc! { "knowledge_base_id": id };
        ask(self.knowledge_bases.delete_one(filter)).await?;
        Ok(())
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Adds pages to a file, unless it has them. Fails with the class `Deleted` if the file does
    /// not exist.
    pub(crate) async fn add_pages(
        &self,
        file_id: &str,
        pages: &[PageEntry],
    ) -> Result<(), Failure> {
        let now = DateTime::now();
        let updates: Vec<Document> = pages
            .iter()
            .map(|page| {
                let entry = doc! {
                    "images_id": &page.image_id, "minio_filename": &page.key,
                    "minio_url": &page.url, "page_number": i64::from(page.number),
                };
                doc! {
                    "q": { "file_id": file_id, "images.images_id": { "$ne": &page.image_id } },
                    "u": { "$push": { "images": entry }, "$set": { "last_modify_at": now } },
                }
            })
            .collect();
        // A command as text does not inherit the client's write concern.
        let command = doc! {
            "update": self.files.name(), "updates": updates, "ordered": true,
            "writeConcern": { "w": "majority" },
        };
        let reply = ask(self.database.run_command(command)).await?;
        if let Ok(errors) = reply.get_array("writeErrors")
            && let Some(error) = errors.first().and_then(Bson::as_document)
        {
            let message = error.get_str("errmsg").unwrap_or("a write failed");
            return Err(by_code(error.get_i32("code").unwrap_or_default(), message));
        }
        let changed = reply
            .get_i32("n")
            .map(i64::from)
            .or_else(|_| reply.get_i64("n"));
        if changed.unwrap_or_default() < i64::try_from(pages.len()).unwrap_or(i64::MAX)
            && self.stored_file(file_id).await?.is_none()
        {
            let message = format!("file {file_id} was deleted while it was ingested");
            return Err(Failure::deleted(Stage::Mongodb, message));
        }
        Ok(())
    }

    /// The stored fields of a file. `None`: it does not exist.
    pub(crate) async fn stored_file(&self, file_id: &str) -> Result<Option<StoredFile>, Failure> {
        Ok(self
            .stored_files(vec![file_id.to_owned()])
            .await?
            .pop()
            .map(|(_, file)| file))
    }

    /// The stored fields of some files, with their ids.
    pub(crate) async fn stored_files(
        &self,
        file_ids: Vec<String>,
    ) -> Result<Vec<(String, StoredFile)>, Failure> {
        let found = self
            .files
            .find(doc! { "file_id": { "$in": file_ids } })
            .projection(doc! {
                "file_id": 1, "filename": 1, "knowledge_db_id": 1, "minio_filename": 1,
                "images.images_id": 1, "images.minio_filename": 1,
            });
        let mut found = ask(found).await?;
        let mut files = Vec::new();
        while let Some(file) = ask(found.try_next()).await? {
            files.push((text(&file, "file_id"), StoredFile::from(&file)));
        }
        Ok(files)
    }

    /// Those of some files that exist.
    pub(crate) async fn existing_files(
        &self,
        file_ids: &[&str],
    ) -> Result<HashSet<String>, Failure> {
        let found = self
            .files
            .find(doc! { "file_id": { "$in": file_ids } })
            .projection(doc! { "file_id": 1 });
        let mut found = ask(found).await?;
        let mut ids = HashSet::new();
        while let Some(file) = ask(found.try_next()).await? {
            ids.insert(text(&file, "file_id"));
        }
        Ok(ids)
    }

    /// Removes page images from a file.
    pub(crate) async fn remove_pages(&self, file_id: &str, keys: &[String]) -> Result<(), Failure> {
        let update = doc! {
            "$pull": { "images": { "minio_filename": { "$in": keys } } },
            "$set": { "last_modify_at": DateTime::now() },
        };
        ask(self.files.update_one(doc! { "file_id": file_id }, update)).await?;
        Ok(())
    }

    /// Removes the texts of a file's pages, then the file from its knowledge base and from `files`.
    pub(crate) async fn remove_file(
        &self,
        knowledge_base: &str,
        file_id: &str,
    ) -> Result<(), Failure> {
        self.remove_texts_of_file(file_id).await?;
        ask(self.knowledge_bases.update_one(
            doc! { "knowledge_base_id": knowledge_base },
            doc! {
                "$pull": { "files": { "file_id": file_id } },
                "$set": { "last_modify_at": DateTime::now() },
            },
        ))
        .await?;
        ask(self.files.delete_one(doc! { "file_id": file_id })).await?;
        Ok(())
    }
}

/// The settings of the client. What it writes and reads survives an election, whatever the
/// connection string says: an offset is committed once the ledger has the document's end.
async fn client_options(
    uri: &Secret,
    authorities: Option<&Path>,
) -> Result<ClientOptions, Failure> {
    let mut options = ClientOptions::parse(uri.reveal()).await.map_err(|error| {
        // The driver's message may contain parts of the connection string.
        let kind = match *error.kind {
            ErrorKind::DnsResolve { .. } => "its host name cannot be resolved",
            _ => "it is not a valid connection string",
        };
        Failure::fatal(
            Stage::Mongodb,
            Reason::InvalidMongodbUri,
            format!("mongodb/uri: {kind}"),
        )
    })?;
    if let Some(file) = authorities {
        let mut tls = match options.tls.take() {
            Some(Tls::Enabled(tls)) => tls,
            Some(Tls::Disabled) | None => TlsOptions::default(),
        };
        tls.ca_file_path = Some(file.to_owned());
        options.tls = Some(Tls::Enabled(tls));
    }
    options
        .app_name
        .get_or_insert_with(|| "layra-worker".to_owned());
    options.server_selection_timeout = Some(Duration::from_secs(5));
    options.connect_timeout = Some(Duration::from_secs(5));
    options.write_concern = Some(WriteConcern::majority());
    options.read_concern = Some(ReadConcern::majority());
    // A secondary may not have the latest claim yet.
    options.selection_criteria = Some(ReadPreference::Primary.into());
    Ok(options)
}

impl From<&Document> for StoredFile {
    fn from(file: &Document) -> Self {
        let images = file.get_array("images");
        let images = images.map(Vec::as_slice).unwrap_or_default();
        Self {
            name: text(file, "filename"),
            knowledge_base: file.get_str("knowledge_db_id").ok().map(str::to_owned),
            original: file.get_str("minio_filename").ok().map(str::to_owned),
            pages: images
                .iter()
                .filter_map(Bson::as_document)
                .map(|image| (text(image, "images_id"), text(image, "minio_filename")))
                .collect(),
        }
    }
}

/// A file in the list of its knowledge base.
fn list_entry(task: &Task, url: &str, now: DateTime) -> Document {
    let file = &task.file;
    doc! {
        "file_id": &file.file_id, "filename": &file.name, "minio_filename": &file.key,
        "minio_url": url, "created_at": now,
    }
}

/// A regular expression for ids that differ from `id` at most in `-` and `_`.
pub(crate) fn pattern_like(id: &str) -> String {
    let letters = id.chars().map(|letter| match letter {
        '-' | '_' => "[-_]".to_owned(),
        letter if letter.is_ascii_alphanumeric() => letter.to_string(),
        letter => format!("\\{letter}"),
    });
    format!("^{}$", letters.collect::<String>())
}

fn text(document: &Document, key: &str) -> String {
    document.get_str(key).unwrap_or_default().to_owned()
}

/// Sends a request. Its error becomes a failure with a class.
pub(crate) async fn ask<T>(
    request: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<T, Failure> {
    Ok(answer(request).await??)
}

/// Sends a request and returns its result. Fails only without an answer within [`LONGEST_REQUEST`].
pub(crate) async fn answer<T>(
    request: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<mongodb::error::Result<T>, Failure> {
    tokio::time::timeout(LONGEST_REQUEST, request)
        .await
        .map_err(|_| {
            let message = format!("no response within {} s", LONGEST_REQUEST.as_secs());
            Failure::transient(Stage::Mongodb, Reason::MongodbUnavailable, message)
        })
}

impl From<mongodb::error::Error> for Failure {
    fn from(error: mongodb::error::Error) -> Self {
        classify(&error)
    }
}

/// Finds the class, the reason and the cause of a driver's error. Without an answer it is the
/// server's.
fn classify(error: &mongodb::error::Error) -> Failure {
    match &*error.kind {
        ErrorKind::Authentication { .. } => Failure::fatal(
            Stage::Mongodb,
            Reason::MongodbForbidden,
            "the server refuses the credentials",
        ),
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => {
            Failure::fatal(Stage::Mongodb, Reason::InvalidMongodbUri, error)
        }
        ErrorKind::BsonSerialization(_) => {
            Failure::permanent(Stage::Mongodb, Reason::DocumentNotStorable, error)
        }
        _ if error.contains_label("RetryableWriteError")
            || error.contains_label("TransientTransactionError") =>
        {
            Failure::transient(Stage::Mongodb, Reason::MongodbUnavailable, error)
        }
        ErrorKind::Command(command) => by_code(command.code, &command.message),
        ErrorKind::Write(WriteFailure::WriteError(write)) => by_code(write.code, &write.message),
        _ => Failure::transient(Stage::Mongodb, Reason::MongodbUnavailable, error),
    }
}

/// Finds the class and the reason for a MongoDB error code.
fn by_code(code: i32, message: &str) -> Failure {
    match code {
        // Unauthorized, AuthenticationFailed, AtlasError
        13 | 18 | 8000 => Failure::fatal(Stage::Mongodb, Reason::MongodbForbidden, message),
        // BSONObjectTooLarge, its older form, and "resulting document after update is too large"
        10334 | 17419 | 17420 => {
            Failure::permanent(Stage::Mongodb, Reason::DocumentTooLarge, message)
        }
        code if is_server_state(code) => {
            Failure::transient(Stage::Mongodb, Reason::MongodbUnavailable, message)
        }
        _ => {
            let message = format!("{message} (code {code})");
            Failure::refused(Stage::Mongodb, Reason::MongodbRefused, message)
        }
    }
}

/// Whether an error code is about the server's own state: it starts, stops, elects a primary, is
/// overloaded or has lost a connection. 0: there is no code. From the list of MongoDB's error codes.
fn is_server_state(code: i32) -> bool {
    matches!(
        code,
        // InternalError, HostUnreachable, HostNotFound, UnknownError, LockTimeout, OverflowDisk
        0 | 1 | 6 | 7 | 8 | 24 | 39
        // CursorNotFound, LockBusy, MaxTimeMSExpired, stale routing, WriteConcernFailed
        | 43 | 46 | 50 | 63 | 64 | 70 | 71
        // NetworkTimeout, ShutdownInProgress, OperationFailed, CannotSatisfyWriteConcern
        | 89 | 91 | 96 | 100
        // WriteConflict, read preference, read concern, primary stepped down, network limit
        | 112 | 133 | 134 | 189 | 202 | 237 | 246 | 262 | 290 | 384 | 462
        // Socket, legacy not primary, interrupted at shutdown or by elections
        | 9001 | 10058 | 10107 | 11600 | 11601 | 11602 | 13388 | 13435 | 13436 | 14031
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::{Cause, Class};

    #[test]
    fn ids_that_share_a_collection_are_found() {
        assert_eq!(pattern_like("roger_26-x"), "^roger[-_]26[-_]x$");
        assert_eq!(pattern_like("a.b"), "^a\\.b$");
    }

    #[test]
    fn an_error_code_is_about_the_server_or_about_the_request() {
        for (code, class, cause) in [
            (13, Class::Fatal, Cause::Server),
            (18, Class::Fatal, Cause::Server),
            (17419, Class::Permanent, Cause::Server),
            // The primary steps down; the server shuts down; no code.
            (189, Class::Transient, Cause::Server),
            (11600, Class::Transient, Cause::Server),
            (0, Class::Transient, Cause::Server),
            // BadValue, a validator of the collection, and a code of the future.
            (2, Class::Transient, Cause::Request),
            (121, Class::Transient, Cause::Request),
            (99_999, Class::Transient, Cause::Request),
        ] {
            let failure = by_code(code, "x");
            assert_eq!((failure.class, failure.cause), (class, cause), "{code}");
        }
    }

    #[tokio::test]
    async fn an_election_takes_nothing_back_whatever_the_connection_string_says() {
        let uri = "mongodb://host/?w=1&journal=false&readConcernLevel=local\
                   &readPreference=secondaryPreferred";
        let options = client_options(&Secret::new(uri), None).await.unwrap();
        assert_eq!(options.write_concern, Some(WriteConcern::majority()));
        assert_eq!(options.read_concern, Some(ReadConcern::majority()));
        let primary = ReadPreference::Primary.into();
        assert_eq!(options.selection_criteria, Some(primary));
        let client = Client::with_options(options).unwrap();
        let ledger = client
            .database("d")
            .collection::<Document>("ingestion_ledger");
        assert_eq!(ledger.write_concern(), Some(&WriteConcern::majority()));
        assert_eq!(ledger.read_concern(), Some(&ReadConcern::majority()));
    }

    #[tokio::test]
    async fn a_private_authority_turns_on_tls_and_keeps_what_the_connection_string_says() {
        let file = Path::new("/etc/layra/secrets/mongodb/ca.crt");
        for (uri, key_file) in [
            ("mongodb://host/", None),
            ("mongodb://host/?tls=false", None),
            (
                "mongodb://host/?tls=true&tlsCertificateKeyFile=/client.pem",
                Some("/client.pem"),
            ),
        ] {
            let options = client_options(&Secret::new(uri), Some(file)).await.unwrap();
            let Some(Tls::Enabled(tls)) = options.tls else {
                panic!("{uri}: no TLS")
            };
            assert_eq!(tls.ca_file_path.as_deref(), Some(file), "{uri}");
            assert_eq!(tls.cert_key_file_path, key_file.map(Into::into), "{uri}");
        }
    }

    #[tokio::test]
    async fn a_bad_connection_string_is_fatal_and_not_shown() {
        let uri = Secret::new("mongodb://root:hidden@:x:y");
        let failure = Documents::new(&uri, None, "mongodb").await.unwrap_err();
        assert_eq!(failure.class, Class::Fatal);
        assert!(!failure.message.contains("hidden"));
    }
}
