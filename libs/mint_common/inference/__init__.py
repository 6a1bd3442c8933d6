"""The contract of the inference APIs: operations, strict bodies, rules of fields, sizes of answers."""
