"""A seeded simulator of many engines, driven by the code that decides on real ones.

Real: `services.loader.core` (residency, cold queue, slots, stall budget, eviction) and `mint_common.client`
(routing, residency map). Simulated: time, the seconds that bytes and tokens take, engines that die.
"""
