"""The types of the public names; the module itself loads them when they are first used.

A plugin's class has its real type where the plugin is installed, and is ``Any`` elsewhere.
"""

from dimesh_adk import ControlPlaneAgent as ControlPlaneAgent  # type: ignore[import-not-found, unused-ignore]

from dimesh.backends.state.sqlite import SqliteCDCStore as SqliteCDCStore
from dimesh.bus.current import current_event as current_event
from dimesh.bus.deadletter import DeadLetter as DeadLetter
from dimesh.bus.engine import EventBus as EventBus
from dimesh.bus.factory import EventBusFactory as EventBusFactory
from dimesh.bus.factory import InMemoryEventBus as InMemoryEventBus
from dimesh.bus.foreign import ForeignRecords as ForeignRecords
from dimesh.bus.handler import EventHandler as EventHandler
from dimesh.bus.options import SubscriptionOptions as SubscriptionOptions
from dimesh.bus.options import SubscriptionState as SubscriptionState
from dimesh.bus.redrive import DeadLetters as DeadLetters
from dimesh.bus.retry import CircuitBreaker as CircuitBreaker
from dimesh.bus.retry import RetryPolicy as RetryPolicy
from dimesh.bus.sync import SyncBus as SyncBus
from dimesh.cdc import CDCOperation as CDCOperation
from dimesh.cdc.connector import CDCConnector as CDCConnector
from dimesh.cdc.events import CDCEvent as CDCEvent
from dimesh.cdc.events import CDCOffset as CDCOffset
from dimesh.cdc.manager import CDCManager as CDCManager
from dimesh.cdc.source_connector import SourceConnector as SourceConnector
from dimesh.cdc.status import CDCConnectorStatus as CDCConnectorStatus
from dimesh.clock import ManualClock as ManualClock
from dimesh.errors import BackpressureError as BackpressureError
from dimesh.errors import BusClosedError as BusClosedError
from dimesh.errors import BusError as BusError
from dimesh.errors import CDCError as CDCError
from dimesh.errors import CodecError as CodecError
from dimesh.errors import ConfigurationError as ConfigurationError
from dimesh.errors import CredentialsError as CredentialsError
from dimesh.errors import DeadLetterNotFoundError as DeadLetterNotFoundError
from dimesh.errors import DimeshError as DimeshError
from dimesh.errors import EventError as EventError
from dimesh.errors import EventNotFoundError as EventNotFoundError
from dimesh.errors import FencedError as FencedError
from dimesh.errors import GroupNotFoundError as GroupNotFoundError
from dimesh.errors import IncompatibleSchemaError as IncompatibleSchemaError
from dimesh.errors import InvalidLineageError as InvalidLineageError
from dimesh.errors import InvalidSchemaError as InvalidSchemaError
from dimesh.errors import LineageError as LineageError
from dimesh.errors import ListenError as ListenError
from dimesh.errors import NodeNotFoundError as NodeNotFoundError
from dimesh.errors import NotOfferedError as NotOfferedError
from dimesh.errors import NotPermittedError as NotPermittedError
from dimesh.errors import NotSoftDeletedError as NotSoftDeletedError
from dimesh.errors import PayloadError as PayloadError
from dimesh.errors import PluginConflictError as PluginConflictError
from dimesh.errors import PluginContractError as PluginContractError
from dimesh.errors import PluginError as PluginError
from dimesh.errors import PositionLostError as PositionLostError
from dimesh.errors import PublishError as PublishError
from dimesh.errors import ReferencedError as ReferencedError
from dimesh.errors import ReferenceNotFoundError as ReferenceNotFoundError
from dimesh.errors import RefusedError as RefusedError
from dimesh.errors import RegistryAccessError as RegistryAccessError
from dimesh.errors import RegistryUnavailableError as RegistryUnavailableError
from dimesh.errors import RejectError as RejectError
from dimesh.errors import RequestTimeoutError as RequestTimeoutError
from dimesh.errors import SchemaError as SchemaError
from dimesh.errors import SchemaIdConflictError as SchemaIdConflictError
from dimesh.errors import SchemaValidationError as SchemaValidationError
from dimesh.errors import SoftDeletedError as SoftDeletedError
from dimesh.errors import SourceObjectError as SourceObjectError
from dimesh.errors import SourcePositionLostError as SourcePositionLostError
from dimesh.errors import SourceUnavailableError as SourceUnavailableError
from dimesh.errors import StorageError as StorageError
from dimesh.errors import SubjectNotFoundError as SubjectNotFoundError
from dimesh.errors import TopicNotFoundError as TopicNotFoundError
from dimesh.errors import UnknownDriverError as UnknownDriverError
from dimesh.errors import UnstorableError as UnstorableError
from dimesh.errors import VersionConflictError as VersionConflictError
from dimesh.events.event import Event as Event
from dimesh.events.metadata import EventMetadata as EventMetadata
from dimesh.events.topics import Topics as Topics
from dimesh.events.types import EventPriority as EventPriority
from dimesh.events.types import EventType as EventType
from dimesh.lineage.mermaid import LineageVisualizer as LineageVisualizer
from dimesh.lineage.model import LineageEdge as LineageEdge
from dimesh.lineage.model import LineageEdgeType as LineageEdgeType
from dimesh.lineage.model import LineageNode as LineageNode
from dimesh.lineage.model import LineageNodeType as LineageNodeType
from dimesh.lineage.model import LineageQuery as LineageQuery
from dimesh.lineage.service import LineageService as LineageService
from dimesh.mesh import Mesh as Mesh
from dimesh.registry.decorator import validate_event as validate_event
from dimesh.registry.engine import SchemaRegistry as SchemaRegistry
from dimesh.registry.evolution import SchemaEvolutionHelper as SchemaEvolutionHelper
from dimesh.registry.local import LocalSchemaRegistry as LocalSchemaRegistry
from dimesh.registry.model import CompatibilityMode as CompatibilityMode
from dimesh.registry.model import SchemaFormat as SchemaFormat
from dimesh.registry.model import SchemaSubject as SchemaSubject
from dimesh.registry.model import SchemaVersion as SchemaVersion
from dimesh.secrets import Secret as Secret
from dimesh.settings.loading import LoadedSettings as LoadedSettings
from dimesh.settings.loading import load_settings as load_settings
from dimesh.settings.model import MeshSettings as MeshSettings
from dimesh.spi.bus import StartAt as StartAt
from dimesh.spi.receipt import Receipt as Receipt
from dimesh_confluent import ConfluentSchemaRegistry as ConfluentSchemaRegistry  # type: ignore[import-not-found, unused-ignore]
from dimesh_kafka import KafkaEventBus as KafkaEventBus  # type: ignore[import-not-found, unused-ignore]
from dimesh_netsuite import NetSuiteCDCConnector as NetSuiteCDCConnector  # type: ignore[import-not-found, unused-ignore]
from dimesh_pubsub import PubSubEventBus as PubSubEventBus  # type: ignore[import-not-found, unused-ignore]
from dimesh_salesforce import SalesforceCDCConnector as SalesforceCDCConnector  # type: ignore[import-not-found, unused-ignore]
from dimesh_stripe import StripeCDCConnector as StripeCDCConnector  # type: ignore[import-not-found, unused-ignore]
from dimesh_zendesk import ZendeskCDCConnector as ZendeskCDCConnector  # type: ignore[import-not-found, unused-ignore]

__version__: str
