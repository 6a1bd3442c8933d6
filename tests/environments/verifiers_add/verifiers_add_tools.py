"""The server of the tool; a module of its own, as verifiers starts it by its name."""

import verifiers.v1 as vf


class Adder(vf.Toolset[vf.ToolsetConfig]):
    """Adds."""

    @vf.tool
    def add(self, expression: str) -> str:
        """Add the numbers of an expression such as "1 + 2"."""
        return str(sum(int(each) for each in expression.split("+")))


if __name__ == "__main__":
    Adder.run()
