{{/*
Every engine group as YAML, by its name among objects: base, engine and values (with the defaults).
The Service of a set has the set's name; that of a LeaderWorkerSet is made by its controller.
*/}}
{{- define "mint.engines" -}}
{{- $root := . -}}
{{- range $base, $of := .Values.bases }}
{{- range $engine, $own := $of.engines }}
{{- $values := include "mint.partValues" (list $root.Values.engineDefaults $own $of.dtype) | fromYaml }}
{{- $name := include "mint.name" (dict "root" $root "part" (printf "loader-%s-%s" (replace "_" "-" $base) $engine)) }}
{{ $name }}:
{{- dict "base" $base "engine" $engine "values" $values | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Every trainer as YAML, by its name among objects: base and values (with the defaults). */}}
{{- define "mint.trainers" -}}
{{- $root := . -}}
{{- range $base, $of := .Values.bases }}
{{- if hasKey $of "trainer" }}
{{- $values := include "mint.partValues" (list $root.Values.trainerDefaults $of.trainer $of.dtype) | fromYaml }}
{{- $name := include "mint.name" (dict "root" $root "part" (printf "trainer-%s" (replace "_" "-" $base))) }}
{{ $name }}:
{{- dict "base" $base "values" $values | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
The address of each group's first engine, with commas between. Engines announce themselves; during an upgrade one of a
version that does not is found by it: the first one of a set is replaced last.
*/}}
{{- define "mint.loaderUrls" -}}
{{- $urls := list -}}
{{- range $name, $part := include "mint.engines" . | fromYaml -}}
{{- $urls = append $urls (printf "http://%s-0.%s:%s" $name $name (include "mint.port" "loader")) -}}
{{- end -}}
{{- join "," $urls -}}
{{- end -}}

{{- define "mint.trainerUrls" -}}
{{- $urls := list -}}
{{- range $name, $part := include "mint.trainers" . | fromYaml -}}
{{- $urls = append $urls (printf "http://%s-0.%s:%s" $name $name (include "mint.port" "trainer")) -}}
{{- end -}}
{{- join "," $urls -}}
{{- end -}}

{{- define "mint.tokenizers" -}}
{{- $known := list -}}
{{- range $base, $of := .Values.bases -}}
{{- with $of.tokenizer -}}
{{- $known = append $known (printf "%s=%s" $base .) -}}
{{- end -}}
{{- end -}}
{{- join "," $known -}}
{{- end -}}

{{/* Argument: the values of an image, and root. */}}
{{- define "mint.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The values of a part of a base as YAML. Arguments: the defaults, its own values, the base's dtype. */}}
{{- define "mint.partValues" -}}
{{- $values := mergeOverwrite (deepCopy (index . 0)) (deepCopy (index . 1 | default dict)) }}
{{- if and (index . 2) (not (hasKey $values.settings "dtype")) }}
{{- $_ := set $values.settings "dtype" (index . 2) }}
{{- end }}
{{- toYaml $values }}
{{- end -}}

{{/* The Service of a part's pods. Argument: dict name names, and headless: each pod has an address of its own. */}}
{{- define "mint.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
    {{- include "mint.labels" .names | nindent 4 }}
spec:
  {{- if .headless }}
  clusterIP: None
  {{- end }}
  selector:
    {{- include "mint.selector" .names | nindent 4 }}
  ports:
    - {name: http, port: {{ include "mint.port" .names.service }}, targetPort: http}
{{- end -}}

{{/* How the pods of a LeaderWorkerSet start and are replaced: all must run before the leader can be ready. */}}
{{- define "mint.group" -}}
startupPolicy: LeaderCreated
rolloutStrategy:
  type: RollingUpdate
  rollingUpdateConfiguration: {maxUnavailable: 1, maxSurge: 0}
networkConfig: {subdomainPolicy: Shared}
leaderWorkerTemplate:
  size: {{ .nodes }}
  restartPolicy: RecreateGroupOnPodRestart
{{- end -}}
