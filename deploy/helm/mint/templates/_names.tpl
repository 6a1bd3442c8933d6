{{/* First part of all names. */}}
{{- define "mint.fullname" -}}
{{- $usual := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- .Values.nameOverride | default $usual -}}
{{- end -}}

{{/* The name of a part. Argument: dict root part. Names of pods and their labels add up to 11 characters to it. */}}
{{- define "mint.name" -}}
{{- $name := printf "%s-%s" (include "mint.fullname" .root) .part -}}
{{- if gt (len $name) 52 -}}
{{- fail (printf "the name %s has more than 52 characters: set nameOverride, or give the base or the engine a shorter one" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "mint.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "mint.fullname" .) -}}
{{- end -}}

{{/* The labels that select the pods of a part. Argument: dict root service, and base and engine where it has them. */}}
{{- define "mint.selector" -}}
app.kubernetes.io/name: mint
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- with .base }}
mint.dev/base: {{ . }}
{{- end }}
{{- with .engine }}
mint.dev/engine: {{ . }}
{{- end }}
{{- end -}}

{{/* The labels of pods. Alerts and dashboards know a service by its job, whatever the release is called. */}}
{{- define "mint.podLabels" -}}
{{ include "mint.selector" . }}
mint.dev/job: mint-{{ .service }}
{{- end -}}

{{/* The labels of an object, which may change. Argument as of mint.selector. */}}
{{- define "mint.labels" -}}
{{ include "mint.podLabels" . }}
app.kubernetes.io/part-of: mint
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "mint.port" -}}
{{- get (dict "gateway" "8321" "registry" "8101" "trainer" "8102" "rollout" "8103" "loader" "8104") . -}}
{{- end -}}
