#pragma once

namespace kt {

// What a config may say at most: far above any model, far below where products of two of them leave int64.
inline constexpr int kMaxWidth = 1 << 20;
inline constexpr int kMaxVocab = 1 << 24;
inline constexpr int kMaxLayers = 1024;
inline constexpr int kMaxExperts = 1 << 16;
inline constexpr int kMaxExpertGroups = 64;
inline constexpr int kMaxHeads = 1 << 12;
inline constexpr int kMaxHeadDim = 1 << 14;
inline constexpr int kMaxContext = 1 << 30;

}  // namespace kt
