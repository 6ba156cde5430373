# On AWS: an EKS cluster that exists, a bucket for artifacts, a GPU and a CPU node group, one IAM role for the pods (IRSA).

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
    helm = {
      source  = "hashicorp/helm"
      version = "~> 3.0"
    }
  }
}

variable "region" {
  description = "Region of the cluster and the bucket."
  type        = string
}

variable "cluster_name" {
  description = "An EKS cluster with an OIDC provider."
  type        = string
}

variable "oidc_provider_arn" {
  description = "ARN of the cluster's OIDC provider."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of the nodes."
  type        = list(string)
}

variable "node_role_arn" {
  description = "IAM role of the nodes."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket that is made for artifacts."
  type        = string
}

provider "aws" {
  region = var.region
}

data "aws_eks_cluster" "this" {
  name = var.cluster_name
}

provider "helm" {
  kubernetes = {
    host                   = data.aws_eks_cluster.this.endpoint
    cluster_ca_certificate = base64decode(data.aws_eks_cluster.this.certificate_authority[0].data)
    exec = {
      api_version = "client.authentication.k8s.io/v1"
      command     = "aws"
      args        = ["eks", "get-token", "--cluster-name", var.cluster_name, "--region", var.region]
    }
  }
}

resource "aws_s3_bucket" "artifacts" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "artifacts" {
  bucket                  = aws_s3_bucket.artifacts.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "aws:kms"
    }
  }
}

resource "aws_eks_node_group" "gpu" {
  cluster_name    = var.cluster_name
  node_group_name = "sllm-gpu"
  node_role_arn   = var.node_role_arn
  subnet_ids      = var.subnet_ids
  ami_type        = "AL2023_x86_64_NVIDIA"
  instance_types  = ["p5.4xlarge"]
  labels          = { "serverlessllm/pool" = "gpu" }

  scaling_config {
    min_size     = 0
    desired_size = 1
    max_size     = 4
  }

  taint {
    key    = "nvidia.com/gpu"
    value  = "present"
    effect = "NO_SCHEDULE"
  }
}

resource "aws_eks_node_group" "cpu" {
  cluster_name    = var.cluster_name
  node_group_name = "sllm-cpu"
  node_role_arn   = var.node_role_arn
  subnet_ids      = var.subnet_ids
  instance_types  = ["m7i.4xlarge"]
  labels          = { "serverlessllm/pool" = "cpu" }

  scaling_config {
    min_size     = 2
    desired_size = 2
    max_size     = 6
  }
}

locals {
  issuer  = trimprefix(data.aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://")
  release = "serverlessllm"
  roles = {
    # Agents only read; the ingest service writes what it makes.
    agent  = ["s3:GetObject"]
    ingest = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
  }
}

data "aws_iam_policy_document" "trust" {
  for_each = local.roles

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:serverlessllm:${local.release}-${each.key}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.roles

  statement {
    actions   = each.value
    resources = ["${aws_s3_bucket.artifacts.arn}/*"]
  }

  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.artifacts.arn]
  }
}

resource "aws_iam_role" "pods" {
  for_each           = local.roles
  name               = "sllm-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
}

resource "aws_iam_role_policy" "bucket" {
  for_each = local.roles
  name     = "artifacts"
  role     = aws_iam_role.pods[each.key].id
  policy   = data.aws_iam_policy_document.bucket[each.key].json
}

module "serverlessllm" {
  source = "../.."

  release_name     = local.release
  artifacts_url    = "s3://${aws_s3_bucket.artifacts.bucket}/artifacts"
  artifacts_region = var.region

  service_account_annotations = {
    agent  = { "eks.amazonaws.com/role-arn" = aws_iam_role.pods["agent"].arn }
    ingest = { "eks.amazonaws.com/role-arn" = aws_iam_role.pods["ingest"].arn }
  }

  pools = {
    gpu = {
      gpus          = 1
      node_selector = { "serverlessllm/pool" = "gpu" }
      nvme_path     = "/mnt/k8s-disks/0/serverlessllm"
      huge_pages    = true
      arena_budget  = "128GiB"
      shm_size      = "160Gi"
      memory        = "220Gi"
    }
    cpu = {
      node_selector = { "serverlessllm/pool" = "cpu" }
      arena_budget  = "24GiB"
      shm_size      = "28Gi"
      memory        = "48Gi"
    }
  }

  depends_on = [aws_eks_node_group.gpu, aws_eks_node_group.cpu]
}
