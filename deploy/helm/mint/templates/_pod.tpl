{{/* What the standard "restricted" of Kubernetes' pod security asks for, and a root file system that is only read. */}}
{{- define "mint.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "mint.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/*
The template of a part's pods. Argument: dict root service values image, and
  base           values of the base, where the part has one
  baseLabel      name of the base
  engine         name of the engine group
  command        a list; without one the service itself
  follower       true for pods that serve no HTTP: ranks and workers beside a leader
  revisionLabel  label of pods of one revision, which are spread over nodes; without one they are not
  cache          true where /var/lib/mint is a claim of the set's own
*/}}
{{- define "mint.pod" -}}
{{- $names := dict "root" .root "service" .service "base" .baseLabel "engine" .engine -}}
{{- $isHeavy := has .service (list "loader" "trainer") -}}
{{- $environments := dig "environments" dict .values -}}
{{- $annotations := deepCopy (.values.podAnnotations | default dict) -}}
{{- if $environments.namespaces }}
{{- /* Before Kubernetes 1.30 there is no field for it; later versions make it of this. */}}
{{- $_ := set $annotations "container.apparmor.security.beta.kubernetes.io/rollout" "unconfined" }}
{{- end }}
metadata:
  labels:
    {{- include "mint.podLabels" $names | nindent 4 }}
    {{- with .values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "mint.serviceAccountName" .root }}
  automountServiceAccountToken: false
  # Variables of Services named mint-* would be read as settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add 20 (ceil .values.acceptSeconds) (ceil .values.drainSeconds) }}
  {{- include "mint.podSecurity" . | nindent 2 }}
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
  {{- with get $.values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if .revisionLabel }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "mint.selector" $names | nindent 10 }}
      matchLabelKeys: [{{ .revisionLabel }}]
  {{- end }}
  containers:
    - name: {{ .service }}
      image: {{ include "mint.image" (dict "root" .root "image" .image) | quote }}
      imagePullPolicy: {{ .image.pullPolicy | default "IfNotPresent" }}
      command: {{ .command | default (list "python" "-m" (printf "services.%s" .service)) | toJson }}
      env:
        {{- include "mint.env" . | nindent 8 }}
      {{- if not .follower }}
      ports:
        - {name: http, containerPort: {{ include "mint.port" .service }}}
      # Base, engine and migrations of the database take their time.
      startupProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        failureThreshold: {{ $isHeavy | ternary 360 150 }}
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      # Constant while the process works: an outage of NATS or Postgres restarts nothing.
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- end }}
      {{- with .values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- include "mint.containerSecurity" . | nindent 6 }}
        {{- if $environments.namespaces }}
        # The profiles of container runtimes refuse the namespaces that confine environments.
        seccompProfile: {type: Unconfined}
        {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $environments.claim }}
        - {name: environments, mountPath: /var/lib/mint, readOnly: true}
        {{- end }}
        - {name: secrets, mountPath: /run/secrets/mint, readOnly: true}
        {{- if .cache }}
        - {name: cache, mountPath: /var/lib/mint}
        {{- end }}
        {{- if $isHeavy }}
        - {name: shm, mountPath: /dev/shm}
        {{- if .base.claim }}
        - {name: bases, mountPath: /bases, readOnly: true}
        {{- end }}
        {{- end }}
  volumes:
    - name: tmp
      {{- if .values.spoolSize }}
      emptyDir: {sizeLimit: {{ .values.spoolSize }}}
      {{- else }}
      emptyDir: {}
      {{- end }}
    {{- with $environments.claim }}
    - name: environments
      persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: true}
    {{- end }}
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          {{- range $file, $from := include "mint.secretFiles" . | fromYaml }}
          - secret: {name: {{ $from.name | quote }}, items: [{key: {{ $from.key | quote }}, path: {{ $file }}}]}
          {{- end }}
    {{- if $isHeavy }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .values.sharedMemory }}}
    {{- if .base.claim }}
    - name: bases
      persistentVolumeClaim: {claimName: {{ .base.claim | quote }}, readOnly: true}
    {{- end }}
    {{- end }}
{{- end -}}
