"""Groups and verdicts for the tests of verifiers."""

from ceeh.types import Completion, Finish, GradingOutcome, Prompt, RolloutGroup


def prompt(answer, uid="p"):
    return Prompt(uid=uid, text="?", answer=answer, token_ids=(1,))


def completion(text, finish=Finish.STOP):
    return Completion(text=text, token_ids=(1,), logprobs=(0.0,), finish=finish)


def group(answer, *responses, finish=Finish.STOP, uid="p"):
    return RolloutGroup(
        prompt=prompt(answer, uid),
        completions=tuple(completion(text, finish) for text in responses),
        policy_version=0,
    )


def verdict(verifier, answer, response, finish=Finish.STOP):
    (scored,) = verifier([group(answer, response, finish=finish)])
    return scored.verdicts[0].score, scored.verdicts[0].outcome


CORRECT, INCORRECT = (1.0, GradingOutcome.OK), (0.0, GradingOutcome.OK)
NO_ANSWER, DIED = (0.0, GradingOutcome.NO_ANSWER), (0.0, GradingOutcome.DIED)
UNREADABLE = (0.0, GradingOutcome.UNREADABLE)
