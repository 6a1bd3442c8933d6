{{/* A setting's value as its service reads it. Lists stand with commas between; large numbers keep their digits. */}}
{{- define "mint.text" -}}
{{- if kindIs "string" . -}}{{ . }}
{{- else if kindIs "slice" . -}}{{ join "," . }}
{{- else -}}{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* The secrets that a service reads from files, by the files' names, as YAML. Argument: dict root service. */}}
{{- define "mint.secretFiles" -}}
{{- $all := .root.Values.secrets -}}
internal_token: {{ $all.internalToken | toJson }}
nats_url: {{ $all.natsUrl | toJson }}
postgres_dsn: {{ get $all.postgresDsnOf .service | default $all.postgresDsn | toJson }}
{{- with $all.s3SecretKey }}
blobs_s3_secret_key: {{ . | toJson }}
{{- end }}
{{- if eq .service "registry" }}
registry_bootstrap_key: {{ $all.bootstrapKey | toJson }}
{{- end }}
{{- end -}}

{{/* What a service reads. Argument: dict root service values, and base where it has one. */}}
{{- define "mint.env" -}}
{{- $all := .root.Values -}}
{{- $prefix := printf "MINT_%s" (upper .service) -}}
{{- $fullname := include "mint.fullname" .root -}}
{{- range $file, $from := include "mint.secretFiles" . | fromYaml }}
- {name: MINT_{{ upper $file }}_FILE, value: /run/secrets/mint/{{ $file }}}
{{- end }}
- {name: MINT_BLOBS_URL, value: {{ $all.blobs.url | quote }}}
- {name: MINT_BLOBS_S3_ENDPOINT, value: {{ $all.blobs.endpoint | quote }}}
- {name: MINT_BLOBS_S3_REGION, value: {{ $all.blobs.region | quote }}}
{{- with $all.secrets.s3AccessKey }}
- name: MINT_BLOBS_S3_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}
- {name: MINT_TELEMETRY_LOG_LEVEL, value: {{ $all.telemetry.logLevel | quote }}}
- {name: MINT_TELEMETRY_OTLP_ENDPOINT, value: {{ $all.telemetry.otlpEndpoint | quote }}}
- {name: {{ $prefix }}_HTTP_HOST, value: "0.0.0.0"}
- {name: {{ $prefix }}_HTTP_PORT, value: {{ include "mint.port" .service | quote }}}
- {name: MINT_HTTP_ACCEPT_SECONDS, value: {{ .values.acceptSeconds | toJson | quote }}}
- {name: MINT_HTTP_DRAIN_SECONDS, value: {{ .values.drainSeconds | toJson | quote }}}
{{- if ne .service "registry" }}
- {name: MINT_PEERS_REGISTRY_URL, value: "http://{{ $fullname }}-registry:{{ include "mint.port" "registry" }}"}
{{- end }}
{{- if has .service (list "gateway" "rollout" "trainer") }}
- {name: MINT_ALGORITHMS_CUSTOM, value: {{ join "," $all.algorithms | quote }}}
{{- end }}
{{- if has .service (list "gateway" "rollout") }}
- {name: MINT_PEERS_LOADER_URLS, value: {{ include "mint.loaderUrls" .root | quote }}}
- {name: MINT_PEERS_TRAINER_URLS, value: {{ include "mint.trainerUrls" .root | quote }}}
{{- end }}
{{- if eq .service "gateway" }}
- {name: MINT_PEERS_ROLLOUT_URL, value: "http://{{ $fullname }}-rollout:{{ include "mint.port" "rollout" }}"}
- {name: MINT_GATEWAY_TOKENIZERS, value: {{ include "mint.tokenizers" .root | quote }}}
{{- else if eq .service "rollout" }}
{{- if .values.environments.claim }}
- {name: MINT_ROLLOUT_ENVIRONMENTS_DIR, value: /var/lib/mint/envs}
{{- end }}
{{- else if eq .service "trainer" }}
- {name: MINT_TRAINER_BASE_DIR, value: {{ .base.path | quote }}}
{{- if eq (int .values.nodes) 1 }}
- {name: MINT_TRAINER_RANKS, value: {{ .values.ranks | toJson | quote }}}
{{- end }}
{{- else if eq .service "loader" }}
- {name: MINT_LOADER_BASE_DIR, value: {{ .base.path | quote }}}
- {name: MINT_LOADER_CACHE_DIR, value: /var/lib/mint/cache}
- {name: TRITON_CACHE_DIR, value: /var/lib/mint/compiled/triton}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /var/lib/mint/compiled/inductor}
- {name: VLLM_CACHE_ROOT, value: /var/lib/mint/compiled/vllm}
- {name: MINT_LOADER_ENGINE_ID, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: MINT_LOADER_EXECUTOR, value: mp}
{{- end }}
{{- range $name, $value := .values.settings }}
- {name: {{ $prefix }}_{{ upper $name }}, value: {{ include "mint.text" $value | toJson }}}
{{- end }}
{{- include "mint.ownEnv" . }}
{{- end -}}

{{- define "mint.ownEnv" -}}
{{- range $name, $value := .values.env }}
- {name: {{ $name }}, value: {{ $value | toJson }}}
{{- end }}
{{- end -}}
