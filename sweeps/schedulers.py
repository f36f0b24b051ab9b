"""Which trials go on after an epoch, and which are stopped: Ray Tune's schedulers, set up for a space."""

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from sweeps.space import SearchSpace


def make_scheduler(space: SearchSpace) -> TrialScheduler:
    """Makes the scheduler that a search space names. Its clock is a trial's own `epoch`."""
    settings, objective = space.scheduler, space.objectives[0]
    if settings.name == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=objective.metric,
        mode={"maximize": "max", "minimize": "min"}[objective.direction],
        grace_period=space.first_rung,
        reduction_factor=settings.reduction_factor,
        # Beyond the last epoch: at max_t ASHA stops even a trial that is about to complete.
        max_t=space.max_epochs + 1,
    )
