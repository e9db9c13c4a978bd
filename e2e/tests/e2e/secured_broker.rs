//! A Kafka broker for one test that requires logins or certificates. It listens on the bridge, so
//! that pods reach it too. It stops when its value is dropped. If the test is killed, it stops with
//! the test-bed, whose mark it has and in whose data directory it stores its files.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_testbed::Settings;
use layra_testbed::settings::NODE_IP;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

/// The only user of the listeners with SASL/PLAIN and SCRAM.
pub const USER: &str = "alice";
/// Password of that user.
pub const PASSWORD: &str = "alice-secret";

/// A running broker with one listener per security protocol.
pub struct SecuredBroker {
    process: Child,
    folder: TempDir,
    /// Address of the listener with SASL/PLAIN, without encryption.
    pub plain: String,
    /// Address of the listener with SASL/SCRAM-SHA-512 over TLS.
    pub scram: String,
    /// Address of the listener with TLS and client certificates.
    pub mutual: String,
    /// Certificates for clients.
    pub certificates: Certificates,
}

/// Certificates and keys in PEM format.
pub struct Certificates {
    /// The certificate authority of broker and clients.
    pub authority: String,
    /// A client certificate.
    pub client: String,
    /// The private key of the client certificate.
    pub client_key: String,
    server: String,
    server_key: String,
}

impl SecuredBroker {
    /// Starts it and waits until it answers.
    pub async fn start(settings: &Settings) -> Result<Self> {
        let data = settings.state.join("data");
        fs::create_dir_all(&data)?;
        let folder = TempDir::with_prefix_in("secured-kafka-", data)?;
        let certificates = Certificates::make()?;
        let ports = free_ports()?;
        let file = |name: &str| folder.path().join(name).display().to_string();
        let Certificates {
            authority,
            server,
            server_key,
            ..
        } = &certificates;
        fs::write(file("authority.pem"), authority)?;
        fs::write(file("server.pem"), format!("{server_key}\n{server}"))?;
        fs::write(
            file("server.properties"),
            configuration(
                &file("log"),
                &file("server.pem"),
                &file("authority.pem"),
                ports,
            ),
        )?;

        let user = format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]");
        let output = java(settings)
            .args([
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "bGF5cmEtc2VjdXJlZC0wMQ",
            ])
            .args(["-c", &file("server.properties"), "--add-scram", &user])
            .stdin(Stdio::null())
            .output()
            .context("running java")?;
        ensure!(
            output.status.success(),
            "formatting Kafka's storage: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let process = java(settings)
            .arg("kafka.Kafka")
            .arg(file("server.properties"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(file("output"))?)
            .stderr(Stdio::null())
            .spawn()
            .context("starting the broker")?;
        let [_, internal, plain, scram, mutual] = ports;
        let broker = Self {
            process,
            folder,
            plain: format!("{NODE_IP}:{plain}"),
            scram: format!("{NODE_IP}:{scram}"),
            mutual: format!("{NODE_IP}:{mutual}"),
            certificates,
        };
        broker
            .wait(internal)
            .await
            .with_context(|| broker.output())?;
        Ok(broker)
    }

    async fn wait(&self, port: u16) -> Result<()> {
        eventually("the secured broker", Duration::from_mins(1), async || {
            let answers = tokio::task::spawn_blocking(move || {
                let client: BaseConsumer = ClientConfig::new()
                    .set("bootstrap.servers", format!("127.0.0.1:{port}"))
                    .set("log_level", "0")
                    .create()?;
                let metadata = client.fetch_metadata(None, Duration::from_secs(2))?;
                anyhow::Ok(!metadata.brokers().is_empty())
            });
            Ok(answers.await??.then_some(()))
        })
        .await
    }

    /// What the broker printed, for a failed test.
    pub fn output(&self) -> String {
        let output = fs::read_to_string(self.folder.path().join("output"));
        output.unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for SecuredBroker {
    fn drop(&mut self) {
        // Both fail if it has exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Certificates {
    fn make() -> Result<Self> {
        let mut authority = named("the test's authority", &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let (server_key, client_key) = (KeyPair::generate()?, KeyPair::generate()?);
        let server = named("broker", &[NODE_IP])?.signed_by(&server_key, &issuer)?;
        let client = named("ingestion", &[])?.signed_by(&client_key, &issuer)?;
        Ok(Self {
            authority: certificate.pem(),
            client: client.pem(),
            client_key: client_key.serialize_pem(),
            server: server.pem(),
            server_key: server_key.serialize_pem(),
        })
    }
}

fn named(name: &str, addresses: &[&str]) -> Result<CertificateParams> {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut certificate = CertificateParams::new(addresses)?;
    certificate
        .distinguished_name
        .push(DnType::CommonName, name);
    Ok(certificate)
}

/// Ports that are free at this moment: controller, internal, plain, scram, mutual.
fn free_ports() -> Result<[u16; 5]> {
    let mut listeners = Vec::new();
    for address in ["127.0.0.1", "127.0.0.1", NODE_IP, NODE_IP, NODE_IP] {
        listeners.push(TcpListener::bind((address, 0)).context("finding a free port")?);
    }
    let mut ports = [0; 5];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn java(settings: &Settings) -> Command {
    let artifact = settings.cache.join("kafka");
    let logging = artifact.join("log4j2.yaml");
    let mut command = Command::new("java");
    command
        .envs([settings.mark()])
        .args(["-Xmx200m", "-Xss512k", "-XX:+UseSerialGC"])
        .arg("-XX:TieredStopAtLevel=1")
        .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
        .arg("-cp")
        .arg(artifact.join("lib/*"));
    command
}

fn configuration(log: &str, server: &str, authority: &str, ports: [u16; 5]) -> String {
    let [controller, internal, plain, scram, mutual] = ports;
    let listeners = format!(
        "INTERNAL://127.0.0.1:{internal},PLAIN://{NODE_IP}:{plain},SCRAM://{NODE_IP}:{scram},\
         MUTUAL://{NODE_IP}:{mutual}"
    );
    let modules = "org.apache.kafka.common.security";
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
listeners=CONTROLLER://127.0.0.1:{controller},{listeners}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,PLAIN:SASL_PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL
listener.name.plain.sasl.enabled.mechanisms=PLAIN
listener.name.plain.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
log.dirs={log}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=1
num.io.threads=2
log.cleaner.dedupe.buffer.size=8388608
"
    )
}
