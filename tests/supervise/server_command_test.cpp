#include "runtime/supervise/server_command.h"

#include <gtest/gtest.h>

#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using Words = std::vector<std::string>;

TEST(ServerCommand, TheServersOptionsBeginBehindItsName) {
  const ServerCommand command = parse_server_command(Words{"mpirun", "-np", "3", "ktmpi", "--port", "1"});
  EXPECT_EQ(command.words.size(), 6U);
  EXPECT_EQ(command.program, 3U);
  EXPECT_EQ(command.arguments, (Words{"--port", "1"}));

  EXPECT_EQ(parse_server_command(Words{"ktmpi", "serve", "--port", "1"}).arguments, (Words{"--port", "1"}));
  EXPECT_EQ(parse_server_command(Words{"ktmpi"}).arguments, Words());
  EXPECT_EQ(parse_server_command(Words{"ktmpi", "--served-model-name", "ktmpi"}).arguments.size(), 2U);
}

TEST(ServerCommand, APathNamesTheProgramOnlyIfItIsAFile) {
  const TempFolder folder;
  const std::string program = folder.path() / "ktmpi", home = folder.path() / "home" / "ktmpi";
  std::filesystem::create_directories(home);
  folder.write("ktmpi", "#!/bin/sh\n");

  EXPECT_EQ(parse_server_command(Words{"mpirun", "-wdir", home, program, "--port", "1"}).program, 3U);
}

TEST(ServerCommand, WhatStartsNoServerIsRefused) {
  const auto refusal = [](const Words& words) { return refusal_of([&] { parse_server_command(words); }, kExitUsage); };
  EXPECT_NE(refusal({}).find("found none"), std::string::npos);
  EXPECT_NE(refusal({"mpirun", "-np", "3"}).find("'mpirun -np 3', which names no ktmpi"), std::string::npos);
  EXPECT_NE(refusal({"/absent/ktmpi"}).find("names no ktmpi"), std::string::npos);
  EXPECT_NE(refusal({"ktmpi", "chat"}).find("found ktmpi chat"), std::string::npos);
  EXPECT_NE(refusal({"ktmpi", "up", "ktmpi"}).find("found ktmpi up"), std::string::npos);
}

}  // namespace
}  // namespace kt
