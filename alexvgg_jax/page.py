"""The results page and the README's scoreboard, rendered from records as Markdown."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from alexvgg_jax import paper
from alexvgg_jax.paper import Claim, Figure
from alexvgg_jax.results import (
    GAP,
    TEST,
    TOP5,
    TRAINING,
    WORDS,
    Finding,
    Result,
    Verdict,
    each,
    estimate,
    values,
)

FOREST = "claims"  # the name of the picture of all effects
NOT_MEASURED = ("counted", "not tested")  # verdicts without an effect

PREFACE = """\
`python experiments/report.py` renders this page and its plots from the records in
[results](results). A record is one JSON line: a measurement, usually of one trained
net. Published figures are the papers', on ImageNet unless the claim names another set.
Those of cuda-convnet, Krizhevsky's program of 2012, are on CIFAR-10. Our figures are
means over seeds with 95% intervals, or counts of layers and parameters.

The [README](../README.md#scoreboard) defines the verdicts, and
`alexvgg_jax/results.py` has their rule. Each experiment trains its own nets."""

CONVERTED = """
The exception are records that were converted from older result files. They have no
digest of their images. Each has the commits and the machine of its whole file, and some
have no training time. Where two experiments have a net in common, their converted
records are of the same training."""

RULES = """\
## Rules that changed

These rules changed after figures had been seen:

- Verdicts: each experiment had its own rule, most with two standard errors. Now one
  rule holds for all. It has 95% t-intervals, compares arms seed by seed, and asks for
  the size of an effect besides its sign.
- Test errors: one agreed up to one and a half points above the published error. Now it
  agrees up to half a point.
- Dropout, crops, colour, decay and pooling: nets trained on all images. Now they train
  on 10,000 images, where they overfit. The earlier records were deleted.
- Depth and pooling: nets had smaller maps. Now conv1 has a stride of 1. The earlier
  records were deleted.
- Dropout, crops, colour, decay and LRN: all arms had one learning rate. Now each arm
  trains at the best of several.
- Biases: the error of the second epoch decided. Now the mean of the first two decides.
- Five nets: the error of their gain counted choices of five nets as independent. Now a
  jackknife gives its interval, because choices share nets.
- LRN: the verdict compared nets with and without LRN alone. Now it also says whether
  LRN beats its own constant factor.
- ReLU: one seed tried each learning rate for two epochs, and the best was taken. Now it
  tries each for five epochs, and the two best until 25% training error.
- Schedules: a schedule that was cut short counted. Now it tests nothing.

One rule changed while its nets trained: ten views decide the net of 14.2% error. Three
rules changed no verdict. Greyscale images cannot test the colour claim. Only CIFAR-10
tests ReLU. Nets that diverge have no gap and no ratio of epochs."""


def _findings(results: Sequence[Result]) -> dict[str, tuple[Result, Finding]]:
    return {tag: (r, f) for r in results for tag, f in r.findings.items()}


def _summary(results: Sequence[Result]) -> str:
    """Count the verdicts, and say what holds for all figures."""
    findings = _findings(results)
    words = Counter(finding.verdict.word for _, finding in findings.values())
    words["not tested"] += len(paper.CLAIMS) - len(findings)
    counts = ", ".join(f"{word} **{words[word]}**" for word in WORDS)
    lines = [f"{len(paper.CLAIMS)} claims: {counts}."]
    if not any(t.startswith("VGG") and r.records for t, (r, _) in findings.items()):
        lines.append("VGG's claims about errors are not measured yet.")
    if any("JPEG" in record.data["set"] for r in results for record in r.records):
        exact = [t for t, (r, f) in findings.items() if _on_exact_cifar10(r, f)]
        some = "Most results on CIFAR-10" if exact else "Results on CIFAR-10"
        lines.append(f"{some} are from a JPEG copy of it.")
        if exact:
            lines.append(f"These are from the original: {', '.join(exact)}.")
    return "\n".join(lines)


def _on_exact_cifar10(result: Result, finding: Finding) -> bool:
    """Whether a finding is from CIFAR-10 without loss of detail."""
    arms = (result.arms[arm] for arm in finding.arms or result.arms)
    sets = {record.data["set"] for records in arms for record in records}
    return bool(sets) and all("cifar10" in s and "JPEG" not in s for s in sets)


def scoreboard(results: Sequence[Result], links: bool = False) -> str:
    """Return the verdicts' counts, and a table with one line a claim.

    With `links`, verdicts lead to the experiments' sections on the same page, and a
    column says what the claim was tested in.
    """
    findings, lines = _findings(results), []
    for tag, claim in paper.CLAIMS.items():
        why = f"needs {claim.needs}" if claim.needs else ""
        word, shown, where = str(Verdict("not tested", why)), _effect(claim), "-"
        if tag in findings:
            result, finding = findings[tag]
            verdict, shown = finding.verdict, _first(claim, finding)
            word = str(verdict)
            word = f"[{word}](#{result.name})" if links else word
            where = tested_in(result, finding)
        more = (where,) if links else ()
        lines.append((tag, claim.short, *shown, word, *more))
    columns = ("tag", "claim", "published", "ours", "verdict", "tested in")
    columns = columns if links else columns[:-1]
    return "\n".join([_summary(results), "", *table(columns, lines)])


def tested_in(result: Result, finding: Finding) -> str:
    """Return the regime of the first arm that decides: net, images, errors, seeds."""
    arm = next(iter(finding.arms or result.arms), None)
    records = result.arms.get(arm, []) if arm else []
    if not records:
        return "-"
    first = records[0]
    errors = [
        f"{estimate(values(records, figure)).value:.1f}"
        for figure in (TRAINING, TEST)
        if figure in first.figures
    ]
    kinds = "training / test error" if len(errors) > 1 else "test error"
    rates = [f"{' / '.join(errors)}% {kinds}"] if errors else []
    seeds = f"{len(records)} seed{'s' * (len(records) > 1)}"
    images = f"{first.data['train']:,} images"
    return ", ".join([first.settings["name"], images, *rates, seeds])


def effects(results: Sequence[Result]) -> list[tuple[str, Figure, Figure]]:
    """Return short name, published and our figure of claims that have both."""
    pairs = []
    for tag, (_, finding) in _findings(results).items():
        claim = paper.claim(tag)
        for name, ours in finding.figures.items():
            if name in claim.published and finding.verdict.word not in NOT_MEASURED:
                pairs.append((f"{claim.short} ({tag})", claim.published[name], ours))
                break
    return pairs


def _effect(claim: Claim) -> tuple[str, str]:
    """The published effect of a claim without a finding; lone errors say nothing."""
    first = next(iter(claim.published.values()), Figure(0.0))
    return str(first) if first.unit in ("points", "times") else "-", "-"


def _first(claim: Claim, finding: Finding) -> tuple[str, str]:
    """The figure that stands for the claim: published and ours."""
    tested = finding.verdict.word != "not tested"
    for name, ours in finding.figures.items():
        if name in claim.published:
            return str(claim.published[name]), str(ours) if tested else "-"
    return "-", next(map(str, finding.figures.values()), "-")


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return head + [f"| {' | '.join(line)} |" for line in lines]


def insert(readme: str, marker: str, text: str) -> str:
    """Return the README with the text between <!-- marker --> and <!-- /marker -->."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def render(results: Sequence[Result], pictures: Mapping[str, Sequence[str]]) -> str:
    """Return the results page: every claim, then every experiment.

    `pictures` are links relative to the page, by name of the experiment or FOREST.
    """
    summary, board = scoreboard(results, links=True).split("\n\n")
    lines = ["# Every claim, and what we measured", "", summary, ""]
    for picture in pictures.get(FOREST, ()):
        lines += [f"![Published effects and ours]({picture})", ""]
    lines += [board, "", PREFACE]
    if any(not record.data["digest"] for r in results for record in r.records):
        lines.append(CONVERTED)
    for result in results:
        lines += _section(result, pictures.get(result.name, ()))
    lines += ["", "## Not measured", "", *_unmeasured(results), "", RULES]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 88, subsequent_indent=indent, break_on_hyphens=False)


def _unmeasured(results: Sequence[Result]) -> Iterator[str]:
    findings = _findings(results)
    for tag, claim in paper.CLAIMS.items():
        if tag not in findings:
            how = "No experiment; code and tests." if claim.code else "No experiment."
            if claim.experiment:
                how = f"Not run: `python experiments/{claim.experiment}`"
            if claim.needs:
                how = f"It needs {claim.needs}. {how}"
            yield _wrapped(f"- **{tag}**: {claim.sentence} {how}", "  ")


def _section(result: Result, pictures: Sequence[str]) -> list[str]:
    lines = ["", f"## {result.name}", "", *_about(result)]
    for picture in pictures:
        lines += ["", f"![{result.name}]({picture})"]
    for tag, finding in result.findings.items():
        claim = paper.claim(tag)
        lines += ["", _wrapped(f"**{tag}**: {finding.verdict}. {claim.sentence}"), ""]
        lines += table(("figure", "published", "ours"), figures(claim, finding))
    if not result.findings:
        trained = {a: r for a, r in result.arms.items() if TRAINING in r[0].figures}
        names = dict.fromkeys(name for r in trained.values() for name in r[0].figures)
        names = [name for name in names if name not in (TOP5, GAP)]
        units = ["%" if "error" in name else "" for name in names]
        columns = [
            map(str, each(trained, name, unit).values())
            for name, unit in zip(names, units, strict=True)
        ]
        rows = list(zip(trained, *columns, strict=True))
        lines += ["", *table(("arm", *names), rows)]
    return lines


def figures(claim: Claim, finding: Finding) -> list[tuple[str, str, str]]:
    """Return name, published and our value of every figure of a claim."""

    ours = finding.figures
    return [
        (name, str(claim.published.get(name, "-")), str(ours.get(name, "-")))
        for name in {**claim.published, **ours}
    ]


def _about(result: Result) -> Iterator[str]:
    """Data, seeds, hours, machines and commits of the records."""

    def distinct(values: Iterable[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    records = result.records
    for command in dict.fromkeys(paper.claim(t).experiment for t in result.findings):
        yield f"- `python experiments/{command}`"
    if not records:
        return
    seeds = [len(arm) for arm in result.arms.values()]
    hours = sum(record.seconds or 0.0 for record in records) / 3600
    unknown = any(record.seconds is None for record in records)
    least, most = min(seeds), max(seeds)
    yield f"- Data: {distinct(r.data['set'] for r in records)}"
    yield f"- Seeds of each arm: {least if least == most else f'{least} to {most}'}"
    if hours or not unknown:
        yield f"- Hours of training: {'more than ' * unknown}{hours:.2g}"
    machines = [f"{r.machine['processor']}, {r.machine['devices']}" for r in records]
    versions = [f"jax {record.jax}" for record in records]
    yield f"- Machine: {distinct([*machines, *versions])}"
    commits = distinct(
        part[:10] + "+" * (record.clean is False)
        for record in records
        for part in record.commit.split(", ")
    )
    yield _wrapped(f"- Commit: {commits}", "  ")
