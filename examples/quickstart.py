"""Train a LoRA with the official Tinker SDK, sample from it, go on from where it stopped.

``mint up`` prints the address and the key; then ``python examples/quickstart.py`` with TINKER_BASE_URL and
TINKER_API_KEY set to them. Needs ``pip install tinker``, and nothing of MinT.
"""

import tinker
from tinker import types

service = tinker.ServiceClient()
base = tinker.RestClient().get_server_capabilities().result().supported_models[0].model_name
trainer = service.create_lora_training_client(base, rank=8, seed=1).result()
tokenizer = trainer.get_tokenizer()

text = "the quick brown fox jumps over the lazy dog"
tokens = tokenizer.encode(text)
datum = types.Datum(
    model_input=types.ModelInput.from_ints(tokens[:-1]),  # position i predicts target i
    loss_fn_inputs={
        "target_tokens": types.TensorData(data=tokens[1:], dtype="int64", shape=[len(tokens) - 1])
    },
)
for step in range(100):  # until it knows the sentence by heart
    passed = trainer.forward_backward([datum], "cross_entropy")
    stepped = trainer.optim_step(types.AdamParams(learning_rate=5e-3))  # on its way before the pass is done
    stepped.result()
    if step % 20 == 19:
        print(f"step {step + 1}: loss {passed.result().metrics['loss:sum']:.3f}")

sampler = trainer.save_weights_and_get_sampling_client().result()
start = len(tokens) // 3
prompt = types.ModelInput.from_ints(tokens[:start])
params = types.SamplingParams(max_tokens=len(tokens) - start, temperature=0.0)
sampled = sampler.sample(prompt, num_samples=1, sampling_params=params).result().sequences[0]
print(f"asked {tokenizer.decode(tokens[:start])!r}, sampled {tokenizer.decode(list(sampled.tokens))!r}")

path = trainer.save_state("quickstart").result().path
service.create_training_client_from_state_with_optimizer(path).result()  # a new run goes on from there
print("saved:", path)
