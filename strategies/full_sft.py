"""Full supervised fine-tuning: the reference that every other strategy is compared with."""

from epi_bench import Strategy, register_strategy


@register_strategy("full_sft")
class FullSFT(Strategy):
    """All weights are trained on each experience, nothing protects what was learned before.

    Update: ``theta <- theta - optimizer(g)``. It marks the most plasticity and, on a sequential
    stream, the most forgetting (McCloskey and Cohen 1989).
    """

    family = "baseline"
    bytes_per_parameter = "0"
    evidence = (
        "Learns most and keeps least in sequence. Where all tasks are trained together, nothing on "
        "the published board learns more."
    )
