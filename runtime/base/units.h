#pragma once

namespace kt {

// A GB is 1e9 bytes, as everywhere.
constexpr double kGiga = 1e9, kTera = 1e12;
constexpr double gb(double bytes) { return bytes / kGiga; }

}  // namespace kt
