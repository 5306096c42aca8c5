"""What the intervals of a run allow to be said, and nothing more."""

from pairfolio.evaluation.uncertainty import Interval
from pairfolio.results import Results


def verdict(results: Results) -> list[str]:
    """Sentences for the top of the page and the end of the command."""
    network = results.strategy("network")
    sentences = [_alone(network.sharpe)]
    if network.versus_half is not None:
        sentences.append(_versus(network.versus_half))
    chance = results.placebo.p_value
    if chance is not None:
        sentences.append(_timing(results.placebo.shifts, chance))
    sentences.append(_choice(results))
    if results.settings.final is not None:
        sentences.append(_set_aside(results))
    return sentences


def _choice(results: Results) -> str:
    choice, trials = results.choice, len(results.choice.trials)
    said = "No network or λ was chosen here: one trial"
    if trials > 1:
        kept = choice.trials[choice.chosen]
        said = f"Of {trials} trials on these bars {kept.network} with λ={kept.strength:g} had the best Sharpe"
    if choice.deflated is None:
        return f"{said}; a deflated Sharpe ratio is not defined."
    return (
        f"{said}; the deflated Sharpe ratio, the probability that the true one is above zero after so many "
        f"trials, is {choice.deflated:.2f}. Trials made by hand before are not counted."
    )


def _set_aside(results: Results) -> str:
    assert results.settings.final_start is not None
    start, final = results.settings.final_start.strftime("%Y-%m-%d"), results.final
    if final is None:
        return f"The bars from {start} on are set aside and were not read."
    said = (
        f"Final test on {final.tested.bars} bars from {start} on, on which nothing was chosen, evaluated once"
    )
    if final.look > 1:
        said = (
            f"Look number {final.look} at the bars from {start} on (before: "
            f"{', '.join(final.looked_before)}), so this is no final test"
        )
    return f"{said}. {_alone(final.strategy('network').sharpe)}"


def _timing(shifts: int, chance: float) -> str:
    said = f"Against {shifts} copies of its weights shifted in time, their order has p = {chance:.3f}"
    if chance > 0.05:
        return f"{said}: no sign that the network knows when to trade."
    return f"{said}: better timed than chance on this span, for one setting; more settings tried, less meant."


def _bounds(interval: Interval) -> str:
    return f"{100 * interval.level:.0f} % interval {interval.low:+.2f} to {interval.high:+.2f}".replace(
        "-", "−"
    )


def _alone(sharpe: Interval) -> str:
    if sharpe.value is None or sharpe.low is None or sharpe.high is None:
        return "The network's returns do not vary, so its Sharpe ratio is not defined."
    said = f"Net Sharpe of the network {sharpe.value:+.2f} a year".replace("-", "−")
    if sharpe.low > 0:
        return f"{said} ({_bounds(sharpe)}): above zero on this span, which does not promise another."
    if sharpe.high < 0:
        return f"{said} ({_bounds(sharpe)}): it lost money after costs."
    return f"{said} ({_bounds(sharpe)}): a profit cannot be told from chance."


def _versus(difference: Interval) -> str:
    if difference.value is None or difference.low is None or difference.high is None:
        return "A difference to half/half is not defined."
    said = f"Against half/half each bar {difference.value:+.2f}".replace("-", "−")
    if difference.low > 0:
        return f"{said} ({_bounds(difference)}): better than half/half on this span."
    if difference.high < 0:
        return f"{said} ({_bounds(difference)}): worse than half/half."
    return f"{said} ({_bounds(difference)}): no difference can be told from chance."
