"""REINFORCE with a batch baseline on problems of the policy's own, a mutation for each that is solved half the time."""

import numpy as np

GROUPS, ATTEMPTS, LR = 48, 8, 1e-3


def train(policy):
    """Until the budget is spent: propose, solve, weigh, step."""
    rng = np.random.default_rng(0)
    pool = [problem.id for level in (1, 2, 3) for problem in policy.problems(level, 32)]
    while True:
        proposed = policy.propose(16)
        pool += [p.task for p in proposed if p.task is not None]
        asked = [pool[i] for i in rng.integers(len(pool), size=GROUPS)]
        groups = policy.solve(asked, ATTEMPTS)
        rates = {task: np.mean([s.reward for s in group]) for task, group in zip(asked, groups, strict=True)}
        for task, rate in rates.items():
            if rate >= 0.5 and (harder := policy.mutate(task)) is not None:
                pool.append(harder.id)
        weights = {}
        for group in groups:
            rewards = np.array([s.reward for s in group])
            if 0 < rewards.mean() < 1:
                advantages = (rewards - rewards.mean()) / rewards.std()
                weights |= {s.id: float(a) for s, a in zip(group, advantages, strict=True)}
            elif rewards.mean() == 1:
                weights[group[0].id] = 0.3  # what is known stays known
        fresh = [t for t, rate in rates.items() if 0 < rate < 1]
        pool = pool[-512:] + fresh
        policy.step(weights, LR)
