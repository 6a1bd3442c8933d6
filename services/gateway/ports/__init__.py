"""What the gateway's handlers need of the outside that is its own, by topic.

Routes use the adapters themselves; the registry and the engines are asked through `mint_common.client`.
"""
