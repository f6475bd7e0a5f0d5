"""What text.py's table says in words (not an experiment)."""

from collections.abc import Sequence

from common import Row, where

#: Words count as hidden where the better attacker surely has less than this share of them above the label-only floor.
HIDDEN = 0.05


def hidden(row: Row, before: str = "") -> bool:
    """Whether words are hidden at a cut, from the attackers and, with "more_", from those with more sentences."""
    return row.get(f"{before}excess_high", 0) < HIDDEN


def answers(rows: Sequence[Row], name: str) -> list[str]:
    """A sentence a view: where the zone lies, what comes back there, whether that is where the words are hidden.

    What is sent is all of z, whatever the view: whether words are hidden at a cut is read off the view "tokens". The
    last sentence is of the attacker with more sentences, and of an untrained copy.
    """
    sent = where(rows, targets=name, view="tokens")
    said = [_of_view(sent, where(rows, targets=name, view=view)) for view in dict.fromkeys(row["view"] for row in rows)]
    pooled = next(row for row in sent if "more_best" in row)
    still = "hidden" if hidden(pooled, "more_") else "NOT hidden"
    said.append(
        f"at {pooled['cut']} {pooled['best']:.1%} of the words come back, {pooled['more_best']:.1%} with more "
        f"sentences ({pooled['more_label_only']:.1%} from the label; then {still}); of an untrained copy "
        f"{pooled['untrained']:.1%} and {pooled['untrained_more']:.1%}"
    )
    return [f"{name}, {words}" for words in said]


def _of_view(sent: Sequence[Row], seen: Sequence[Row]) -> str:
    null, paper = ([row["cut"] for row in seen if row[f"zone_{rule}"]] for rule in ("null", "paper"))
    without = [row["cut"] for row in sent if hidden(row)]
    view, label = seen[0]["view"], f"{sent[0]['label_only']:.0%} from the label"
    back = [[row["best"] for row in some if row["cut"] in null] for some in (sent, seen)]
    of_sent, of_view = (f"{min(shares):.0%} to {max(shares):.0%}" if shares else "" for shares in back)
    alone = "" if view == "tokens" else f", {of_view} from the view alone"
    where_hidden = f"where the words are hidden ({_cuts(without)})"
    if not null:
        return f"view {view}: no zone by null, by paper {_cuts(paper)}, and {where_hidden.removeprefix('where ')}"
    same = "that is" if null == without else "that is NOT"
    return (
        f"view {view}: zone by null {_cuts(null)}, by paper {_cuts(paper)}; of the words in null's {of_sent} come back "
        f"from all that is sent{alone}, {label}; {same} {where_hidden}"
    )


def _cuts(cuts: Sequence[str]) -> str:
    return ", ".join(cuts) or "none"
