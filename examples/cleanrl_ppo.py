"""PPO for continuous actions in the style of CleanRL, with shaped rewards.

    python examples/cleanrl_ppo.py

The three lines that end in ``# SRPO`` are added to a CleanRL script. From CleanRL's own
``ppo_continuous_action.py``, remove ``NormalizeReward``, because a success must be worth 1, and
``NormalizeObservation``, because `draw` needs the true position.

The encoder is `WalkerEncoder`, which finds the walker in each frame. With `PixelEncoder` the reward
does harm on this task: it does not follow progress (`your_encoder.py` measures this), and PPO needs
twice as many steps as with the sparse reward (`shaped_against_sparse.py`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from detour import Detour, draw
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.distributions import Normal
from your_encoder import WalkerEncoder

from srpo_env import SelfReferentialProgressWrapper, TrajectoryEncoder  # SRPO


@dataclass
class Args:
    """All settings of a run."""

    seed: int = 1
    shaped: bool = True
    """whether failures are rewarded; otherwise PPO gets the environment's sparse reward"""
    credit: Literal["episode", "dense"] = "episode"
    """when an episode's return is paid: on its last step, or along its way"""
    total_timesteps: int = 60_000
    num_envs: int = 8
    num_steps: int = 256
    """number of steps of each environment in a rollout"""
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    num_minibatches: int = 8
    update_epochs: int = 10
    clip_coef: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


class Agent(nn.Module):
    """A Gaussian policy and a value function, two small networks."""

    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        """Initialises networks for the spaces of ``envs``."""
        super().__init__()
        num_inputs = int(np.prod(envs.single_observation_space.shape))
        num_actions = int(np.prod(envs.single_action_space.shape))
        self.critic = _network(num_inputs, 1, last_gain=1.0)
        self.actor_mean = _network(num_inputs, num_actions, last_gain=0.01)
        self.actor_logstd = nn.Parameter(torch.zeros(num_actions))

    def policy(self, observations: torch.Tensor) -> Normal:
        """Returns the distribution of the actions."""
        return Normal(self.actor_mean(observations), self.actor_logstd.exp())

    def value(self, observations: torch.Tensor) -> torch.Tensor:
        """Returns the expected discounted return of each observation."""
        return self.critic(observations).squeeze(-1)


def _network(num_inputs: int, num_outputs: int, last_gain: float) -> nn.Sequential:
    layers = [nn.Linear(num_inputs, 64), nn.Linear(64, 64), nn.Linear(64, num_outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def train(args: Args, encoder: TrajectoryEncoder, log: bool = True) -> list[tuple[int, float]]:
    """Trains a policy; returns environment steps and success rate after each rollout."""
    torch.manual_seed(args.seed)
    envs = gym.vector.SyncVectorEnv(
        [Detour] * args.num_envs, autoreset_mode=AutoresetMode.SAME_STEP
    )
    envs = SelfReferentialProgressWrapper(envs, encoder, reference="task", frames=draw)  # SRPO
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    shape = (args.num_steps, args.num_envs)
    obs = torch.zeros((*shape, *envs.single_observation_space.shape))
    actions = torch.zeros((*shape, *envs.single_action_space.shape))
    logprobs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))

    curve: list[tuple[int, float]] = []
    start = time.time()
    next_obs = torch.as_tensor(envs.reset(seed=args.seed)[0])
    next_done = torch.zeros(args.num_envs)
    for _ in range(args.total_timesteps // (args.num_steps * args.num_envs)):
        # --- Rollout ---
        for step in range(args.num_steps):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                policy = agent.policy(next_obs)
                actions[step] = policy.sample()
                logprobs[step] = policy.log_prob(actions[step]).sum(-1)
                values[step] = agent.value(next_obs)
            results = envs.step(actions[step].numpy())
            rewards[step] = torch.as_tensor(results[1])
            next_obs = torch.as_tensor(results[0])
            next_done = torch.as_tensor(np.logical_or(results[2], results[3]), dtype=torch.float32)

        if args.shaped:
            envs.rewrite(rewards, credit=args.credit)  # SRPO

        # --- Advantages ---
        with torch.no_grad():
            next_value = agent.value(next_obs)
            advantages = torch.zeros(shape)
            last = torch.zeros(args.num_envs)
            for t in reversed(range(args.num_steps)):
                ended = next_done if t == args.num_steps - 1 else dones[t + 1]
                after = next_value if t == args.num_steps - 1 else values[t + 1]
                delta = rewards[t] + args.gamma * after * (1 - ended) - values[t]
                last = delta + args.gamma * args.gae_lambda * (1 - ended) * last
                advantages[t] = last
            returns = advantages + values

        # --- Update ---
        flat = [x.flatten(0, 1) for x in (obs, actions, logprobs, advantages, returns)]
        for _ in range(args.update_epochs):
            for rows in torch.randperm(len(flat[0])).chunk(args.num_minibatches):
                b_obs, b_actions, b_logprobs, b_advantages, b_returns = (x[rows] for x in flat)
                policy = agent.policy(b_obs)
                ratio = (policy.log_prob(b_actions).sum(-1) - b_logprobs).exp()
                scaled = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = -torch.min(ratio * scaled, clipped * scaled).mean()
                value_loss = 0.5 * (agent.value(b_obs) - b_returns).pow(2).mean()
                entropy = policy.entropy().sum(-1).mean()
                loss = policy_loss - args.ent_coef * entropy + args.vf_coef * value_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()

        envs.close_groups()  # for the success rate; `rewrite` has done so already
        episodes = [episode for group in envs.pop_groups() for episode in group.episodes]
        curve.append((envs.step_count * args.num_envs, _mean([e.success for e in episodes])))
        if log:
            print(
                f"{curve[-1][0]:7} steps  {curve[-1][1]:4.0%} of {len(episodes):3} episodes "
                f"succeeded  std {agent.actor_logstd.exp().mean():.2f}  {time.time() - start:.0f} s"
            )
    envs.close()
    return curve


def _mean(values: list[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")


if __name__ == "__main__":
    torch.set_num_threads(1)  # such small networks are slower with more
    train(tyro.cli(Args), WalkerEncoder())
