from epi_bench.bridges.avalanche import EPIPlugin as EPIPlugin
from epi_bench.bridges.protection import Protection as Protection
from epi_bench.bridges.protection import protect as protect
from epi_bench.bridges.strategy_protection import StrategyProtection as StrategyProtection
from epi_bench.bridges.strategy_trainer import StrategyTrainer as StrategyTrainer
from epi_bench.bridges.strategy_trainer import with_strategy as with_strategy
from epi_bench.bridges.trainer import EPICallback as EPICallback
