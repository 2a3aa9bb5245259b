# For users. The names for authors of plugins follow from plugin.pyi.
from epi_bench.api.evaluation import evaluate as evaluate
from epi_bench.api.results import Results as Results
from epi_bench.api.results import load_record as load_record
from epi_bench.api.results import load_results as load_results
from epi_bench.api.runs import RunFailedError as RunFailedError
from epi_bench.api.runs import compare as compare
from epi_bench.api.runs import run as run
from epi_bench.api.runs import run_spec as run_spec
from epi_bench.api.where import Where as Where
from epi_bench.bridges.protection import Protection as Protection
from epi_bench.bridges.protection import protect as protect
from epi_bench.errors import UserError as UserError
from epi_bench.evaluation.judge import JudgeSettings as JudgeSettings
from epi_bench.plugin import *
from epi_bench.results.record.run_record import RunRecord as RunRecord
from epi_bench.runs.observer import RunObserver as RunObserver
from epi_bench.runs.ray_cluster import RayCluster as RayCluster
from epi_bench.spec.run_spec import RunSpec as RunSpec
from epi_bench.spec.run_spec import StreamSpec as StreamSpec
from epi_bench.spec.run_spec import TrainingSpec as TrainingSpec

__version__: str
