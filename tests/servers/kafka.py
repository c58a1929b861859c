"""Apache Kafka itself, from its published Java artifacts: one broker or three, in KRaft mode, on loopback.

``python tests/servers/kafka.py`` starts one and prints its address. Needs Java 17 and Maven.

Each broker has these listeners: plain, plain with an advertised address that the test chooses (for a proxy), TLS with a
valid, a wrong-host and an expired certificate, and SASL with and without TLS. A client without credentials may do
anything; a SASL user may do what its ACLs allow.
"""

from __future__ import annotations

import base64
import datetime
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from servers.processes import (
    ServerProcess,
    accepts,
    cache_folder,
    folder_kept_on_failure,
    free_ports,
    made_once,
    needs,
    run,
)

VERSION: Final = "4.1.0"
LEAKS: Final = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Warnings to ignore: aiokafka 0.14 leaves sockets open when connecting fails; see the fixture leaky_client."""
_LOG4J: Final = "2.24.3"
USERS: Final = {"admin": "admin-pass", "alice": "alice-pass", "bob": "bob-pass"}
"""The SASL users and their passwords; ``admin`` may do anything."""

_POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dimesh.tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{_LOG4J}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>{_LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"""

_LOGGING: Final = """<Configuration status="warn">
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""

# name -> protocol, in the order of a broker's ports
_LISTENERS: Final = {
    "CONTROLLER": "PLAINTEXT",
    "PLAIN": "PLAINTEXT",
    "PROXIED": "PLAINTEXT",
    "TLS": "SSL",
    "WRONGHOST": "SSL",
    "EXPIRED": "SSL",
    "SASL": "SASL_PLAINTEXT",
    "SASLTLS": "SASL_SSL",
}


def libraries() -> Path:
    """Return the folder with the broker's jars, which Maven downloads the first time."""
    needs("java", "a JRE of version 17 or later runs the Kafka broker")
    maven = needs("mvn", "Maven fetches the Kafka broker")

    def fetch(folder: Path) -> None:
        (folder / "pom.xml").write_text(_POM, "utf-8")
        run([maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder}"], cwd=folder)

    return made_once(cache_folder(f"kafka-{VERSION}"), fetch)


class Certificates:
    """A CA and the brokers' certificates, as PEM files."""

    def __init__(self, folder: Path) -> None:
        import trustme

        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        good = authority.issue_cert("127.0.0.1", "localhost")
        for name, issued in {
            "TLS": good,
            "SASLTLS": good,
            "WRONGHOST": authority.issue_cert("kafka.example.org"),
            "EXPIRED": authority.issue_cert("127.0.0.1", not_after=yesterday),
        }.items():
            chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
            (folder / f"{name}.pem").write_bytes(_pkcs8(issued.private_key_pem.bytes()) + chain)


def _pkcs8(key: bytes) -> bytes:
    """Convert a private key to PKCS #8, the only form that the broker reads."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Broker:
    """One broker, which is also a controller."""

    def __init__(self, number: int, folder: Path, ports: dict[str, int]) -> None:
        self.number = number
        self.folder = folder / f"broker-{number}"
        self.ports = ports
        self.proxied = ports["PROXIED"]
        """The port that the listener PROXIED advertises; set it before the start."""
        classpath = f"{libraries()}/*"
        java = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", classpath]
        self._java = java
        self._properties = self.folder / "server.properties"
        self.process = ServerProcess(
            [
                *java,
                f"-Dlog4j2.configurationFile={folder / 'log4j2.xml'}",
                "kafka.Kafka",
                str(self._properties),
            ],
            folder / f"broker-{number}.log",
        )

    def format(self, cluster: str) -> None:
        """Prepare the data folder."""
        scram = [
            part
            for name, password in USERS.items()
            for part in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password},iterations=4096]")
        ]
        run(
            [
                *self._java,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                cluster,
                *scram,
                "-c",
                str(self._properties),
            ]
        )

    def configure(self, brokers: list[Broker], folder: Path, settings: dict[str, str]) -> None:
        """Write the broker's settings."""
        self.folder.mkdir(exist_ok=True)
        copies = min(len(brokers), 3)
        users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" password="x" {users};'
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        oauth = (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="admin";'
        )
        bound = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        told = {**bound, "PROXIED": f"127.0.0.1:{self.proxied}"}
        lines = {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(
                f"{b.number}@127.0.0.1:{b.ports['CONTROLLER']}" for b in brokers
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listeners": ",".join(f"{name}://{address}" for name, address in bound.items()),
            "advertised.listeners": ",".join(
                f"{name}://{address}" for name, address in told.items() if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in _LISTENERS.items()),
            "log.dirs": str(self.folder / "data"),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(max(copies - 1, 1)),
            "offsets.topic.replication.factor": str(copies),
            "offsets.topic.num.partitions": "5",
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(max(copies - 1, 1)),
            "transaction.state.log.num.partitions": "5",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "500",
            "log.retention.check.interval.ms": "200",
            "log.segment.delete.delay.ms": "100",
            "log.cleaner.backoff.ms": "500",
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "controller.quorum.election.timeout.ms": "500",
            "controller.quorum.fetch.timeout.ms": "1000",
            "replica.lag.time.max.ms": "3000",
            "controlled.shutdown.enable": "true",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
            "ssl.keystore.type": "PEM",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(folder / "ca.pem"),
            **settings,
        }
        for name in ("TLS", "WRONGHOST", "EXPIRED", "SASLTLS"):
            lines[f"listener.name.{name.lower()}.ssl.keystore.location"] = str(folder / f"{name}.pem")
        for name in ("sasl", "sasltls"):
            lines[f"listener.name.{name}.plain.sasl.jaas.config"] = plain
            lines[f"listener.name.{name}.scram-sha-512.sasl.jaas.config"] = scram
            lines[f"listener.name.{name}.oauthbearer.sasl.jaas.config"] = oauth
            lines[f"listener.name.{name}.oauthbearer.sasl.server.callback.handler.class"] = (
                "org.apache.kafka.common.security.oauthbearer.internals.unsecured"
                ".OAuthBearerUnsecuredValidatorCallbackHandler"
            )
        self._properties.write_text("".join(f"{k}={v}\n" for k, v in lines.items()), "utf-8")

    def start(self) -> None:
        """Start the broker and wait until it accepts connections."""
        self.process.start(lambda: accepts(self.ports["PLAIN"]))

    def restart(self, kill: bool = False) -> None:
        """Stop the broker (with ``kill``, by SIGKILL) and start it again."""
        if kill:
            self.process.kill()
        else:
            self.process.stop()
        self.start()


class KafkaCluster:
    """A cluster of one or more brokers."""

    def __init__(self, folder: Path, brokers: int = 1, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.settings = settings or {}
        (folder / "log4j2.xml").write_text(_LOGGING, "utf-8")
        self.certificates = Certificates(folder)
        ports = free_ports(brokers * len(_LISTENERS))
        self.brokers = [
            Broker(n + 1, folder, dict(zip(_LISTENERS, ports[n * len(_LISTENERS) :], strict=False)))
            for n in range(brokers)
        ]

    def servers(self, listener: str = "PLAIN") -> str:
        """Return the addresses for ``bootstrap_servers``."""
        return ",".join(f"127.0.0.1:{broker.ports[listener]}" for broker in self.brokers)

    def start(self) -> None:
        """Format and start all brokers."""
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        while cluster.startswith("-"):  # otherwise the tool would parse it as an option
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for broker in self.brokers:
            broker.configure(self.brokers, self.folder, self.settings)
            broker.format(cluster)
        for broker in self.brokers:
            broker.process.start(lambda: True)
        for broker in self.brokers:
            broker.process.wait(lambda broker=broker: accepts(broker.ports["PLAIN"]))  # type: ignore[misc]

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of Kafka's own command-line tools and return its output."""
        return run(["java", "-XX:TieredStopAtLevel=1", "-cp", f"{libraries()}/*", name, *arguments])

    def stop(self) -> None:
        """Stop all brokers."""
        for broker in self.brokers:
            broker.process.kill()


@contextmanager
def kafka_cluster(
    brokers: int = 1, settings: dict[str, str] | None = None, proxied: dict[int, int] | None = None
) -> Iterator[KafkaCluster]:
    """Start a cluster and yield it.

    Args:
        brokers: The number of brokers.
        settings: Additional settings of the brokers.
        proxied: The port of the proxy in front of the listener PROXIED, by broker number (from 1).

    Raises:
        ServerUnavailable: If Java or Maven is missing, or a broker does not start.
    """
    with folder_kept_on_failure("kafka") as folder:
        cluster = KafkaCluster(folder, brokers, settings)
        for broker in cluster.brokers:
            broker.proxied = (proxied or {}).get(broker.number, broker.proxied)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def main() -> None:
    """Start a broker and wait for a key."""
    with kafka_cluster() as cluster:
        print(f"bootstrap_servers = {cluster.servers()}")
        input("Enter stops it. ")


if __name__ == "__main__":
    main()
