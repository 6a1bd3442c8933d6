"""MinT's services. They never import each other; they exchange events and ask over internal HTTP."""
