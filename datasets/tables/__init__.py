"""All public sets: TABLE maps every registry name (aliases too) to its row of facts."""

from cilmp.datasets.facts import Table
from cilmp.datasets.tables.biomedcoop import BIOMEDCOOP
from cilmp.datasets.tables.cilmp import CILMP
from cilmp.datasets.tables.medmnist import MEDMNIST

TABLE = Table(CILMP | BIOMEDCOOP | MEDMNIST)

assert len(TABLE) == len(CILMP) + len(BIOMEDCOOP) + len(MEDMNIST), "a name is in two tables"
