{{- /* Arguments of `s1 engine`. Call with the engine. */ -}}
{{- define "s1.engineArgs" -}}
- engine
{{- if eq .model.source "hub" }}
- {{ .model.name }}
{{- else if ne .model.source "demo" }}
- /model{{ with .model.name }}/{{ . }}{{ end }}
{{- end }}
- --host
- 0.0.0.0
- --port
- "8001"
{{- if ne .model.source "demo" }}
- --served-model-name
- {{ include "s1.servedName" . | quote }}
{{- else if .model.servedName }}
- --served-model-name
- {{ .model.servedName | quote }}
{{- end }}
{{- if gt (int .parallel.tensor) 1 }}
- --tensor-parallel-size
- {{ int64 .parallel.tensor | quote }}
{{- end }}
{{- if gt (int .parallel.pipeline) 1 }}
- --pipeline-parallel-size
- {{ int64 .parallel.pipeline | quote }}
{{- end }}
{{- if .maxModelLen }}
- --max-model-len
- {{ int64 .maxModelLen | quote }}
{{- end }}
- --
- --shutdown-timeout
- {{ int64 .drain.timeoutSeconds | quote }}
{{- if gt (int .parallel.data) 1 }}
- --data-parallel-size
- {{ int64 .parallel.data | quote }}
{{- end }}
{{- if gt (int .nodes) 1 }}
- --distributed-executor-backend
- ray
{{- end }}
{{- with .extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What both a leader's or lone engine's container and a worker's have. Call with (dict "engine" e "root" $). */ -}}
{{- define "s1.engineContainerCommon" -}}
{{- $engine := .engine -}}
name: engine
image: {{ include "s1.image" (dict "image" $engine.image "root" .root) }}
imagePullPolicy: {{ $engine.image.pullPolicy }}
env:
  - {name: HOME, value: /cache}
  {{- with $engine.runner }}
  - {name: S1_ENGINE_RUNNER, value: {{ . }}}
  {{- end }}
  {{- if gt (int $engine.nodes) 1 }}
  # Of the address by which the pods of a group reach one another.
  - name: VLLM_HOST_IP
    valueFrom:
      fieldRef: {fieldPath: status.podIP}
  {{- end }}
  {{- if $engine.model.tokenSecret.name }}
  - name: HF_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ $engine.model.tokenSecret.name }}, key: {{ $engine.model.tokenSecret.key }}}
  {{- end }}
  {{- with $engine.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $gpus := dict }}
{{- if $engine.gpusPerNode }}
{{- $_ := set $gpus $engine.gpuResource (int64 $engine.gpusPerNode) }}
{{- end }}
resources:
  requests: {{- toYaml $engine.resources.requests | nindent 4 }}
  {{- with merge $gpus $engine.resources.limits }}
  limits: {{- toYaml . | nindent 4 }}
  {{- end }}
securityContext: {{- include "s1.containerSecurity" .root | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: cache, mountPath: /cache}
  - {name: shared-memory, mountPath: /dev/shm}
  {{- if has $engine.model.source (list "pvc" "image") }}
  - {name: model, mountPath: /model, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "s1.engineProbes" -}}
ports:
  - {name: engine, containerPort: 8001}
startupProbe:
  httpGet: {path: /health, port: engine}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ div .startupSeconds 10 | add1 }}
livenessProbe:
  exec:
    command: [python3, -m, server.engine.pod, alive, --port, "8001", --stall-s, {{ int64 .stallSeconds | quote }}]
  periodSeconds: 30
  timeoutSeconds: 20
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /health, port: engine}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- define "s1.drainCommand" -}}
[python3, -m, server.engine.pod, drain, --port, "8001", --notice-s, {{ int64 .drain.noticeSeconds | quote }}, --timeout-s, {{ add .drain.noticeSeconds .drain.timeoutSeconds | quote }}]
{{- end -}}

{{- /* An engine drains by its preStop; vLLM's own time to shut down is for what is left then. */ -}}
{{- define "s1.engineGrace" -}}
{{- add .drain.noticeSeconds .drain.timeoutSeconds 60 -}}
{{- end -}}

{{- define "s1.engineVolumes" -}}
{{- $engine := .engine -}}
- {name: tmp, emptyDir: {sizeLimit: 16Gi}}
- {name: shared-memory, emptyDir: {medium: Memory, sizeLimit: {{ $engine.sharedMemory }}}}
{{- if not $engine.cache.persistent }}
- {name: cache, emptyDir: {sizeLimit: {{ $engine.cache.size }}}}
{{- end }}
{{- if eq $engine.model.source "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ $engine.model.claimName }}, readOnly: true}
{{- else if eq $engine.model.source "image" }}
- name: model
  image: {reference: {{ $engine.model.reference }}, pullPolicy: IfNotPresent}
{{- end }}
{{- end -}}

{{- define "s1.enginePodLabels" -}}
{{ include "s1.podLabels" .root }}
app.kubernetes.io/component: engine
s1-server/engine: {{ .engine.name }}
{{- end -}}

{{- define "s1.engineLabels" -}}
{{ include "s1.labels" .root }}
app.kubernetes.io/component: engine
s1-server/engine: {{ .engine.name }}
{{- end -}}

{{- /* The pod of an engine alone, or of a group's leader. */ -}}
{{- define "s1.enginePod" -}}
{{- $engine := .engine -}}
{{- $root := .root -}}
metadata:
  labels: {{- include "s1.enginePodLabels" . | nindent 4 }}
    s1-server/serves: "true"
  {{- with $engine.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "s1.podCommon" $root | nindent 2 }}
  {{- $grace := include "s1.engineGrace" $engine | int64 }}
  {{- if $root.Values.inferencePool.enabled }}
  {{- $grace = max $grace (include "s1.gatewayGrace" $root | int64) }}
  {{- end }}
  terminationGracePeriodSeconds: {{ $grace }}
  {{- include "s1.placement" (dict "place" $engine "labels" (include "s1.engineSelector" .)) | nindent 2 }}
  containers:
    - {{- include "s1.engineContainerCommon" . | nindent 6 }}
      {{- if gt (int $engine.nodes) 1 }}
      command: [sh, -ec]
      args:
        - |
{{ $root.Files.Get "files/ray_leader.sh" | indent 10 }}
        - leader
        {{- include "s1.engineArgs" $engine | nindent 8 }}
      {{- else }}
      args: {{- include "s1.engineArgs" $engine | nindent 8 }}
      {{- end }}
      {{- include "s1.engineProbes" $engine | nindent 6 }}
      lifecycle:
        preStop:
          exec: {command: {{ include "s1.drainCommand" $engine }}}
    {{- if $root.Values.inferencePool.enabled }}
    - {{- include "s1.gatewayContainer" (dict "root" $root "urls" "http://127.0.0.1:8001") | nindent 6 }}
    {{- end }}
  volumes:
    {{- include "s1.engineVolumes" . | nindent 4 }}
    {{- if $root.Values.inferencePool.enabled }}
    {{- include "s1.gatewayVolumes" $root | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "s1.workerPod" -}}
{{- $engine := .engine -}}
metadata:
  labels: {{- include "s1.enginePodLabels" . | nindent 4 }}
  {{- with $engine.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "s1.podCommon" .root | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "s1.engineGrace" $engine }}
  {{- include "s1.placement" (dict "place" (omit $engine "spread")) | nindent 2 }}
  containers:
    - {{- include "s1.engineContainerCommon" . | nindent 6 }}
      command: [sh, -ec]
      args:
        - |
{{ .root.Files.Get "files/ray_worker.sh" | indent 10 }}
      lifecycle:
        preStop:
          # A group's pods are stopped together: a worker goes after its leader has drained.
          exec:
            command:
              - sh
              - -c
              - exec python3 -m server.engine.pod drain --host "$LWS_LEADER_ADDRESS" --port 8001 --notice-s {{ int64 $engine.drain.noticeSeconds }} --timeout-s {{ add $engine.drain.noticeSeconds $engine.drain.timeoutSeconds }}
  volumes: {{- include "s1.engineVolumes" . | nindent 4 }}
{{- end -}}
