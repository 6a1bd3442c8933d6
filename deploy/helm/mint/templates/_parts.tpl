{{/*
Every engine group as YAML, by its name among objects: base, engine, values (with the defaults), and most engines.
The Service of a set has the set's name; that of a LeaderWorkerSet is made by its controller.
*/}}
{{- define "mint.engines" -}}
{{- $root := . -}}
{{- range $base, $of := .Values.bases }}
{{- range $engine, $own := $of.engines }}
{{- $values := mergeOverwrite (deepCopy $root.Values.engineDefaults) (deepCopy ($own | default dict)) }}
{{- if and $of.dtype (not (hasKey $values.settings "dtype")) }}
{{- $_ := set $values.settings "dtype" $of.dtype }}
{{- end }}
{{- $most := $values.scaling.enabled | ternary $values.scaling.maxReplicas $values.replicas | int }}
{{- $name := include "mint.name" (dict "root" $root "part" (printf "loader-%s-%s" (replace "_" "-" $base) $engine)) }}
{{ $name }}:
{{- dict "base" $base "engine" $engine "values" $values "most" $most | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Every trainer as YAML, by its name among objects: base and values (with the defaults). */}}
{{- define "mint.trainers" -}}
{{- $root := . -}}
{{- range $base, $of := .Values.bases }}
{{- if hasKey $of "trainer" }}
{{- $values := mergeOverwrite (deepCopy $root.Values.trainerDefaults) (deepCopy ($of.trainer | default dict)) }}
{{- if and $of.dtype (not (hasKey $values.settings "dtype")) }}
{{- $_ := set $values.settings "dtype" $of.dtype }}
{{- end }}
{{- $name := include "mint.name" (dict "root" $root "part" (printf "trainer-%s" (replace "_" "-" $base))) }}
{{ $name }}:
{{- dict "base" $base "values" $values | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The addresses of all engines, those too that scaling may add, with commas between. */}}
{{- define "mint.loaderUrls" -}}
{{- $urls := list -}}
{{- range $name, $part := include "mint.engines" . | fromYaml -}}
{{- range $number := until (int $part.most) -}}
{{- $urls = append $urls (printf "http://%s-%d.%s:%s" $name $number $name (include "mint.port" "loader")) -}}
{{- end -}}
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
