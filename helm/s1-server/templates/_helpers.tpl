{{- define "s1.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{- define "s1.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else if contains (include "s1.name" .) .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "s1.name" .) | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "s1.selector" -}}
app.kubernetes.io/name: {{ include "s1.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "s1.labels" -}}
{{ include "s1.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* A pod's labels: nothing that changes with the chart's version alone would restart an engine. */ -}}
{{- define "s1.podLabels" -}}
{{ include "s1.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Numbers come as floats, and a large one would be written as 1e+06. */ -}}
{{- define "s1.scalar" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) -}}
{{ int64 . }}
{{- else -}}
{{ toString . }}
{{- end -}}
{{- end -}}

{{- /* `over` laid over `base`, false and empty values included, unlike mergeOverwrite. Gives YAML. */ -}}
{{- define "s1.merged" -}}
{{- $out := deepCopy .base -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $out $key)) -}}
{{- $_ := set $out $key (include "s1.merged" (dict "base" (get $out $key) "over" $value) | fromYaml) -}}
{{- else -}}
{{- $_ := set $out $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{- /* Repository, tag or digest. Call with (dict "image" … "root" $). */ -}}
{{- define "s1.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "s1.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "s1.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* What every pod has: no API token, and no variables about Services, which would look like settings. */ -}}
{{- define "s1.podCommon" -}}
serviceAccountName: {{ include "s1.fullname" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "s1.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Where a pod may go. Call with (dict "place" values "labels" selector-yaml). */ -}}
{{- define "s1.placement" -}}
{{- with .place.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .place.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .place.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .place.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .place.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .place.spread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- .labels | nindent 8 }}
{{- end }}
{{- end -}}

{{- /* An entry of engines with its defaults, checked. Call with (dict "engine" entry "root" $); gives YAML. */ -}}
{{- define "s1.engine" -}}
{{- $engine := include "s1.merged" (dict "base" .root.Values.engineDefaults "over" .engine) | fromYaml -}}
{{- $name := $engine.name -}}
{{- $world := mul $engine.parallel.tensor $engine.parallel.pipeline $engine.parallel.data -}}
{{- if mod $world $engine.nodes -}}
{{- fail (printf "engines[%s]: tensor x pipeline x data = %d GPUs can't be shared out over nodes. Given: %d" $name (int $world) (int $engine.nodes)) -}}
{{- end -}}
{{- if and (gt (int $engine.nodes) 1) (gt (int $engine.parallel.data) 1) -}}
{{- fail (printf "engines[%s].parallel.data must be 1 over several nodes: use replicas. Given: %d" $name (int $engine.parallel.data)) -}}
{{- end -}}
{{- if and (gt (int $engine.nodes) 1) $engine.cache.persistent -}}
{{- fail (printf "engines[%s].cache.persistent can't be true over several nodes: put the model on a claim (source pvc)" $name) -}}
{{- end -}}
{{- if and (eq $engine.device "cpu") (gt (int $engine.nodes) 1) -}}
{{- fail (printf "engines[%s].nodes must be 1 for device cpu. Given: %d" $name (int $engine.nodes)) -}}
{{- end -}}
{{- if and (eq $engine.device "cpu") (eq $engine.runner "v2") -}}
{{- fail (printf "engines[%s].runner must be v1 or empty for device cpu. Given: v2" $name) -}}
{{- end -}}
{{- if and (eq $engine.model.source "hub") (not $engine.model.name) -}}
{{- fail (printf "engines[%s].model.name is needed for source hub" $name) -}}
{{- end -}}
{{- if and (eq $engine.model.source "pvc") (not $engine.model.claimName) -}}
{{- fail (printf "engines[%s].model.claimName is needed for source pvc" $name) -}}
{{- end -}}
{{- if and (eq $engine.model.source "image") (not $engine.model.reference) -}}
{{- fail (printf "engines[%s].model.reference is needed for source image" $name) -}}
{{- end -}}
{{- include "s1.checkScaling" (dict "of" $engine "path" (printf "engines[%s]" $name)) -}}
{{- $_ := set $engine "gpusPerNode" (ternary 0 (div $world $engine.nodes) (eq $engine.device "cpu")) -}}
{{- $_ := set $engine.image "repository" (default (ternary "s1-server-cpu" "s1-server-engine" (eq $engine.device "cpu")) $engine.image.repository) -}}
{{- $_ := set $engine "fullname" (printf "%s-%s" (include "s1.fullname" .root) $name) -}}
{{- toYaml $engine -}}
{{- end -}}

{{- /* Call with (dict "of" values "path" "…"). */ -}}
{{- define "s1.checkScaling" -}}
{{- with .of.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas must be <= maxReplicas = %d. Given: %d" $.path (int .maxReplicas) (int .minReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "s1.engineSelector" -}}
{{ include "s1.selector" .root }}
app.kubernetes.io/component: engine
s1-server/engine: {{ .engine.name }}
{{- end -}}

{{- /* The name that clients use for an engine's model. */ -}}
{{- define "s1.servedName" -}}
{{- if eq .model.source "demo" -}}
{{- default "tiny-reasoner" .model.servedName -}}
{{- else if eq .model.source "hub" -}}
{{- default .model.name .model.servedName -}}
{{- else -}}
{{- default .name .model.servedName -}}
{{- end -}}
{{- end -}}
