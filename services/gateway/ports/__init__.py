"""What the gateway needs of the outside that is its own, by topic.

The registry and the engines are asked through `mint_common.client`.
"""
