"""All public sets: TABLE maps every registry name (aliases too) to its row of facts."""

from datasets.facts import Table
from datasets.tables.biomedcoop import BIOMEDCOOP
from datasets.tables.cilmp import CILMP
from datasets.tables.medmnist import MEDMNIST

TABLE = Table(CILMP | BIOMEDCOOP | MEDMNIST)

assert len(TABLE) == len(CILMP) + len(BIOMEDCOOP) + len(MEDMNIST), "a name is in two tables"
