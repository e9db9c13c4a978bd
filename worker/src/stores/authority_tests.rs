//! Every client trusts the private authority of its store, and no other private authority. The
//! server here does nothing but TLS handshakes.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Documents, Objects, Vectors, progress};
use crate::runtime::settings::Settings;

/// Long enough for a handshake on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    /// The certificate of its authority, in PEM format.
    authority: String,
    handshakes: UnboundedReceiver<std::io::Result<()>>,
}

impl Server {
    fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);

        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (results, handshakes) = unbounded_channel();
        std::thread::spawn(move || accept(&listener, &Arc::new(config), &results));
        Self {
            address,
            authority,
            handshakes,
        }
    }

    /// The result of the first handshake while `client` connects.
    async fn handshake(&mut self, client: impl Future) -> std::io::Result<()> {
        let connecting = async {
            client.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = self.handshakes.recv() => result.expect("the server runs"),
            () = connecting => unreachable!(),
            () = tokio::time::sleep(PATIENCE) => Err(ErrorKind::TimedOut.into()),
        }
    }
}

fn accept(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    results: &UnboundedSender<std::io::Result<()>>,
) {
    while let Ok((stream, _)) = listener.accept() {
        if results.send(shake_hands(stream, config)).is_err() {
            return;
        }
    }
}

fn shake_hands(mut stream: TcpStream, config: &Arc<ServerConfig>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut connection =
        ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(())
}

/// The settings of a worker whose stores are all at `address`, with this authority or none.
fn settings(address: SocketAddr, authority: Option<&str>) -> Settings {
    let directory = tempfile::tempdir().unwrap().keep();
    let reference = if authority.is_some() {
        ", caSecretRef: {name: ca}"
    } else {
        ""
    };
    let config = format!(
        "
pipeline: rag/contracts
source: {{kafka: {{bootstrapServers: 'kafka:9092'}}}}
documents:
  objectStore: {{endpoint: 'https://{address}', bucket: files, accessKeySecretRef: {{name: s}}, secretKeySecretRef: {{name: s}}{reference}}}
embedding: {{model: {{family: minilm, uri: 'file:///model'}}}}
stores:
  milvus: {{uri: 'https://{address}'{reference}}}
  mongodb: {{uriSecretRef: {{name: s}}{reference}}}
  redis: {{uriSecretRef: {{name: s}}{reference}}}
"
    );
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("worker.yaml", &config);
    write("object-store/accessKey", "a");
    write("object-store/secretKey", "s");
    write("mongodb/uri", &format!("mongodb://{address}/?tls=true"));
    write("redis/uri", &format!("rediss://{address}/1"));
    if let Some(authority) = authority {
        for store in ["object-store", "milvus", "mongodb", "redis"] {
            write(&format!("{store}/ca.crt"), authority);
        }
    }
    Settings::load(&directory.join("worker.yaml"), &directory).unwrap()
}

/// Whether the object store, Milvus, MongoDB and Redis are trusted.
async fn trusted(server: &mut Server, settings: &Settings) -> [bool; 4] {
    let Settings {
        config, secrets, ..
    } = settings;
    let authorities = &secrets.authorities;
    let objects = Objects::new(&config.documents.object_store, secrets).unwrap();
    let vectors = Box::pin(Vectors::connect(
        &config.stores.milvus,
        None,
        authorities.milvus.as_deref(),
        4,
    ));
    let documents = Box::pin(async {
        let file = authorities.mongodb.as_deref();
        let documents = Documents::new(&secrets.mongodb_uri, file, "d")
            .await
            .unwrap();
        documents.prepare().await
    });
    let uri = secrets.redis_uri.as_ref().unwrap();
    let redis = progress::client(uri, authorities.redis.as_deref()).unwrap();
    let handshakes = [
        server.handshake(objects.check()).await,
        server.handshake(vectors).await,
        server.handshake(documents).await,
        server
            .handshake(redis.get_multiplexed_async_connection())
            .await,
    ];
    handshakes.map(|result| result.is_ok())
}

#[tokio::test]
async fn a_store_is_trusted_by_its_private_authority() {
    let mut server = Server::start();
    let settings = settings(server.address, Some(&server.authority.clone()));
    assert_eq!(Box::pin(trusted(&mut server, &settings)).await, [true; 4]);
}

#[tokio::test]
async fn a_store_with_an_unknown_authority_is_not_trusted() {
    let mut server = Server::start();
    let settings = settings(server.address, None);
    assert_eq!(Box::pin(trusted(&mut server, &settings)).await, [false; 4]);
}
