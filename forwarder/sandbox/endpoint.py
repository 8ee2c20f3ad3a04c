"""From a request and its planned faults to the answer, and to the events and updates taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from forwarder.sandbox import answers, intake, rules
from forwarder.sandbox.answers import Answer
from forwarder.sandbox.intake import Account, Batch, Request
from forwarder.sandbox.ledger import Ledger
from forwarder.sandbox.rules import Verdict
from forwarder.sandbox.schedule import Plan
from forwarder.sandbox.updates import Profiles


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer to a request, if it gets one, and what became of its events."""

    answer: Answer | None
    events: int = 0
    size_bytes: int = 0
    new: int = 0
    repeats: int = 0
    failed: int = 0
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A project: its credentials, its kind, its limit, its ledger, and the profiles of users and groups."""

    ledger: Ledger
    token: str
    account: Account
    project: str
    max_body_bytes: int
    users: Profiles
    groups: Profiles

    def settle(self, request: Request, plan: Plan, now_s: float) -> Settled:
        """Judge *request* by the server's clock *now_s*; take what passes unless the plan forbids it."""
        if request.path.rstrip("/") in ("/track", "/engage", "/groups"):
            return self._settle_data(request, plan, now_s)
        found = intake.read(request, self.max_body_bytes)
        batch = Batch((), len(request.body)) if isinstance(found, Answer) else found
        nothing_taken = Settled(None, len(batch.events), batch.size_bytes)
        if plan.instead is not None or not plan.taken:
            return replace(nothing_taken, answer=plan.instead)
        refusal = self._refuse(request) or (found if isinstance(found, Answer) else None)
        settled = (
            replace(nothing_taken, answer=refusal) if refusal else self._judge(request, batch, plan, now_s)
        )
        return _distorted(settled, plan)

    def _settle_data(self, request: Request, plan: Plan, now_s: float) -> Settled:
        """As `settle`, where no credentials are asked for and items are named by ``data``."""
        found = intake.read_data(request, self.max_body_bytes)
        size_bytes = len(request.body) if isinstance(found, Answer) else found[0].size_bytes
        items = () if isinstance(found, Answer) else found[0].events
        nothing_taken = Settled(None, len(items), size_bytes)
        if plan.instead is not None or not plan.taken:
            return replace(nothing_taken, answer=plan.instead)
        if isinstance(found, Answer):
            return _distorted(replace(nothing_taken, answer=found), plan)
        for injection in plan.conditional:
            if injection.exceeds(len(items)) and injection.use():
                plan.names.append(injection.fault.name)
                answer = answers.throttled(strict=False, retry_after_s=injection.fault.retry_after_s)
                return replace(nothing_taken, answer=answer)
        parameters = found[1]
        path = request.path.rstrip("/")
        if path == "/track":
            valid, new, repeats, error = self._track(items, now_s)
        else:
            profiles = self.users if path == "/engage" else self.groups
            valid, error = profiles.take(items)
            new, repeats = valid, 0
        is_verbose = "1" in (parameters.get("verbose"), parameters.get("strict"))
        answer = answers.lenient(valid, is_verbose, error, counts=parameters.get("strict") == "1")
        settled = Settled(answer, len(items), size_bytes, new, repeats, len(items) - valid)
        return _distorted(settled, plan)

    def _track(self, items: Sequence[bytes], now_s: float) -> tuple[int, int, int, str]:
        """Take events; returns how many are valid, new and repeats, and why others are not valid."""
        valid, verdict = rules.judge_tracked(items, self.token, now_s)
        return valid, *self.ledger.take(verdict.events), "token, missing or empty"

    def _refuse(self, request: Request) -> Answer | None:
        if request.path.rstrip("/") != "/import":
            return answers.not_found()
        if request.method != "POST":
            return answers.method_not_allowed()
        return intake.authenticate(request, self.token, self.account)

    def _judge(self, request: Request, batch: Batch, plan: Plan, now_s: float) -> Settled:
        if request.strict:
            verdict = rules.judge(batch.events, now_s, self.project)
        else:
            verdict = rules.judge_leniently(batch.events)
        outcome = _alter(verdict, plan, request.strict)
        if isinstance(outcome, Verdict) and outcome.identity_events:
            outcome = answers.identity_refused(outcome.identity_events)
        if isinstance(outcome, Answer):
            return Settled(outcome, len(batch.events), batch.size_bytes)
        new, repeats = self.ledger.take(outcome.events)
        failed = len({failure.index for failure in outcome.failures})
        counts = (outcome.sent, batch.size_bytes, new, repeats, failed)
        return Settled(_answer(request, outcome), *counts, is_probe=not new and _is_probe(batch))


def _distorted(settled: Settled, plan: Plan) -> Settled:
    answer = settled.answer
    for distort in plan.distortions:
        answer = distort(answer) if answer else None
    return replace(settled, answer=answer) if plan.distortions else settled


def _is_probe(batch: Batch) -> bool:
    """Whether it is a probe: one event without a name and anything else, only meant to be judged."""
    return len(batch.events) == 1 and rules.parse(batch.events[0]) == {"event": "", "properties": {}}


def _alter(verdict: Verdict, plan: Plan, strict: bool) -> Verdict | Answer:
    """Apply the faults that depend on the batch's content."""
    for injection in plan.conditional:
        fault = injection.fault
        outcome: Verdict | Answer | None = None
        if injection.exceeds(verdict.sent):
            outcome = answers.throttled(strict, fault.retry_after_s)
        elif fault.alter is not None:
            outcome = fault.alter(verdict)
        if outcome is None or not injection.use():
            continue
        plan.names.append(fault.name)
        if isinstance(outcome, Answer):
            return outcome
        verdict = outcome
    return verdict


def _answer(request: Request, verdict: Verdict) -> Answer:
    imported = len(verdict.events)
    if not request.strict:
        return answers.lenient(imported, verbose=request.query.get("verbose") == "1")
    if verdict.failures:
        return answers.strict_failed(imported, verdict.failures)
    return answers.strict_ok(imported)
