{{/* Name of the chart, for labels. */}}
{{- define "dreambooth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of all objects, short enough for what is added to it. */}}
{{- define "dreambooth.fullname" -}}
{{- $name := include "dreambooth.name" . }}
{{- $joined := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $joined .Values.fullnameOverride | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "dreambooth.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "dreambooth.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: required when serviceAccount.create is false; name an account of the release's namespace" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dreambooth.selector" -}}
app.kubernetes.io/name: {{ include "dreambooth.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "dreambooth.labels" -}}
{{- include "dreambooth.labelsWith" (list . "commonLabels" .Values.commonLabels) }}
{{- end }}

{{/* Labels of an object that has more of its own: (list ROOT NAME_OF_THE_VALUE LABELS). */}}
{{- define "dreambooth.labelsWith" -}}
{{- $root := index . 0 }}
{{- $own := include "dreambooth.selector" $root | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/component" "operator" }}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- include "dreambooth.extended" (list $own (index . 1) (index . 2) $root.Values.commonLabels) }}
{{- end }}

{{/* Labels of the operator's pods. */}}
{{- define "dreambooth.podLabels" -}}
{{- $own := include "dreambooth.selector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/component" "operator" }}
{{- include "dreambooth.extended" (list $own "podLabels" .Values.podLabels .Values.commonLabels) }}
{{- end }}

{{/* The chart's labels and others, which cannot replace them: selectors must go on matching.
(list OWN NAME_OF_THE_VALUE LABELS COMMON_LABELS) */}}
{{- define "dreambooth.extended" -}}
{{- $own := index . 0 }}
{{- $value := index . 1 }}
{{- range $key, $_ := index . 2 }}
{{- if hasKey $own $key }}
{{- fail (printf "%s: the label %s is set by the chart; remove it" $value $key) }}
{{- end }}
{{- end }}
{{- mustMerge (dict) $own (index . 2) (index . 3) | toYaml }}
{{- end }}

{{/* `affinity`, or by default replicas on different nodes where there are enough. */}}
{{- define "dreambooth.affinity" -}}
{{- if .Values.affinity }}
{{- toYaml .Values.affinity }}
{{- else if gt (int .Values.replicas) 1 -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "dreambooth.selector" . | nindent 12 }}
{{- end }}
{{- end }}

{{/* The two labels that every pod of a DreamBoothJob has. */}}
{{- define "dreambooth.jobPods" -}}
app.kubernetes.io/name: dreambooth
app.kubernetes.io/managed-by: dreambooth-operator
{{- end }}

{{/* Reference of an image: (list IMAGE NAME_OF_THE_VALUE ROOT). */}}
{{- define "dreambooth.image" -}}
{{- $image := index . 0 }}
{{- $value := index . 1 }}
{{- $root := index . 2 }}
{{- $repository := required (printf "%s.repository: required; name an image that your nodes can pull, for example registry.example.com/dreambooth" $value) $image.repository }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* settings.yaml: what was given, and what the chart knows better. */}}
{{- define "dreambooth.settings" -}}
{{- $lease := dict "enabled" true "namespace" .Release.Namespace "name" (include "dreambooth.fullname" .) }}
{{- $own := dict "trainerImage" (include "dreambooth.image" (list .Values.trainerImage "trainerImage" .)) "leaderElection" $lease }}
{{- mustMergeOverwrite (deepCopy .Values.settings) $own | toYaml }}
{{- end }}
